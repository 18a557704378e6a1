//! Tells when a file changed that the policy or the node's identity comes from.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::config::{Config, TrustConfig};

/// How long files must be quiet before they are read: editors and deployments write in bursts.
const QUIET: Duration = Duration::from_millis(300);
/// The longest a burst is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tells of changes, each burst once, until nobody listens. Where files cannot be watched, SIGHUP
/// and `enforcer reload` still work. Must be called within a tokio runtime.
pub(super) fn watch(config: &Config) -> mpsc::Receiver<()> {
    let (sender, raw) = mpsc::channel(1);
    let (told, changes) = mpsc::channel(1);
    match start(config, sender) {
        Ok(watcher) => drop(tokio::spawn(tell(watcher, raw, told))),
        Err(error) => tracing::warn!(%error, "files are not watched: send SIGHUP after changes"),
    }
    changes
}

fn start(config: &Config, sender: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let concerns = concerns(config);
    let told = move |event: notify::Result<notify::Event>| {
        let is_change = |event: &notify::Event| !matches!(event.kind, EventKind::Access(_));
        if event.is_ok_and(|event| is_change(&event) && concerns(&event.paths)) {
            // One that waits is enough.
            let _ = sender.try_send(());
        }
    };
    // Some folders of the policy tree may be other people's: their links lead nowhere.
    let options = notify::Config::default().with_follow_symlinks(false);
    let mut watcher = RecommendedWatcher::new(told, options)?;
    for (folder, mode) in folders(config) {
        if let Err(error) = watcher.watch(&folder, mode) {
            let folder = folder.display();
            tracing::warn!(%folder, %error, "not all of it is watched: send SIGHUP after changes");
        }
    }
    Ok(watcher)
}

/// Whether a change of these paths matters. Beside the configuration there may be anything; where
/// nothing else of it is watched, only it counts, and links that deployments swap (`..data`).
fn concerns(config: &Config) -> impl Fn(&[PathBuf]) -> bool + Send + 'static {
    let folder = parent(&config.file);
    let only = !folders_of_files(config).contains_key(&folder);
    let name = config.file.file_name().map(OsStr::to_owned);
    move |paths| {
        paths.is_empty()
            || paths.iter().any(|path| {
                let is_config = path.file_name() == name.as_deref();
                let swapped = path.file_name().is_some_and(|one| one.as_bytes().starts_with(b".."));
                !only || parent(path) != folder || is_config || swapped
            })
    }
}

async fn tell(_watcher: RecommendedWatcher, mut raw: mpsc::Receiver<()>, told: mpsc::Sender<()>) {
    while raw.recv().await.is_some() {
        let burst = async { while let Ok(Some(())) = timeout(QUIET, raw.recv()).await {} };
        // A burst without end is told of as it is.
        let _ = timeout(PATIENCE, burst).await;
        if told.send(()).await.is_err() {
            return;
        }
    }
}

/// Everything that is watched.
fn folders(config: &Config) -> BTreeMap<PathBuf, RecursiveMode> {
    let mut folders = folders_of_files(config);
    folders.entry(parent(&config.file)).or_insert(RecursiveMode::NonRecursive);
    folders
}

/// Folders of policy files are watched with all below; of other files only their folder is.
fn folders_of_files(config: &Config) -> BTreeMap<PathBuf, RecursiveMode> {
    let mut folders = BTreeMap::new();
    let sources = std::iter::once(&config.policy.sources).chain(&config.policy.staged);
    let paths = sources.flat_map(|one| {
        one.files.iter().chain(&one.owners).chain(&one.tree).chain(&one.kubernetes)
    });
    for path in paths {
        if path.is_dir() {
            folders.insert(path.clone(), RecursiveMode::Recursive);
        } else {
            folders.entry(parent(path)).or_insert(RecursiveMode::NonRecursive);
        }
    }
    // A new key comes with a new certificate; its folder may be another's to watch.
    let key = match &config.identity.trust {
        TrustConfig::Pki { node_key, .. } => Some(node_key),
        TrustConfig::Psk { .. } => None,
    };
    let identity = config.identity.files().into_iter().filter(|file| Some(*file) != key);
    for path in identity {
        folders.entry(parent(path)).or_insert(RecursiveMode::NonRecursive);
    }
    folders
}

fn parent(path: &Path) -> PathBuf {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}
