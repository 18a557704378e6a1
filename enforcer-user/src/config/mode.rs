//! `[[mode]]`: whether verdicts bind, for all workloads of a namespace.

use super::reader::{Claims, Section};
use super::workload::{MODES, Mode, namespace};
use crate::identity::Namespace;

/// The most of one configuration.
pub(super) const MAX_MODES: usize = 1024;

/// What holds for workloads that do not say it of themselves.
pub(super) struct Modes(Vec<(Namespace, Mode)>);

impl Modes {
    /// That of the nearest namespace; enforced where none says otherwise.
    pub(super) fn of(&self, namespace: &Namespace) -> Mode {
        let around = self.0.iter().filter(|(outer, _)| outer.contains(namespace));
        let nearest = around.max_by_key(|(outer, _)| outer.segments().count());
        nearest.map_or(Mode::Enforce, |(_, mode)| *mode)
    }
}

/// What was refused is told, and holds for nobody.
pub(super) fn read(sections: Vec<Section<'_>>) -> Modes {
    let mut seen = Claims::new();
    let mut modes = Vec::new();
    for mut section in sections {
        let hint = "the namespace's path, such as \"/acme/dev\"";
        let path = section.required("namespace", hint, |value| {
            seen.claim(value, namespace(value)?, "a namespace that no other [[mode]] has")
        });
        let mode = section.required("mode", "enforce, observe or learn", |v| v.word(&MODES));
        section.finish();
        modes.extend(path.zip(mode));
    }
    Modes(modes)
}
