//! Reads manifests: YAML or JSON, several documents a file, lists of objects, files of a folder.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use yaml_serde::Value;

use super::cluster::{Cluster, MAX_PEERS};
use super::error::ManifestError;
use super::object::{RawNamespace, RawNode, RawPod, namespace_labels};
use super::{cluster_policy, network_policy};

/// The most bytes of a file.
const MAX_FILE_BYTES: u64 = 32 << 20;
/// The most objects of all files.
const MAX_OBJECTS: usize = 100_000;
/// The deepest folder below the one that is named.
const MAX_DEPTH: usize = 16;
/// Standard input.
const STANDARD_INPUT: &str = "-";

const POLICY: (&str, &str) = ("networking.k8s.io/v1", "NetworkPolicy");
const CLUSTER_POLICY: (&str, &str) = ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy");

/// What every object begins with.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    api_version: Option<String>,
    kind: Option<String>,
    metadata: Option<HeadMetadata>,
    items: Option<Vec<Value>>,
}

#[derive(Deserialize)]
struct HeadMetadata {
    name: Option<String>,
    namespace: Option<String>,
}

/// An object, and its text if that is a document by itself.
struct Object<'a> {
    value: Value,
    text: Option<yaml_serde::Deserializer<'a>>,
}

/// Where an object stands.
struct Place<'a> {
    file: &'a Path,
    document: usize,
    object: String,
}

impl Place<'_> {
    fn error(&self, fault: impl Into<String>) -> ManifestError {
        ManifestError {
            file: self.file.to_owned(),
            document: self.document,
            object: self.object.clone(),
            fault: fault.into(),
        }
    }
}

impl Cluster {
    /// Reads files, and of folders all that end in `.yaml`, `.yml` or `.json`; `-` is standard input.
    ///
    /// # Errors
    /// The first fault that is found: nothing of a policy is passed over.
    pub fn read(paths: &[PathBuf]) -> Result<Self, ManifestError> {
        let mut reader = Reader::default();
        for path in paths {
            reader.path(path, 0)?;
        }
        Ok(reader.end())
    }

    /// Reads manifests out of a text; `file` is said in errors.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse(file: &Path, text: &str) -> Result<Self, ManifestError> {
        let mut reader = Reader::default();
        reader.text(file, text)?;
        Ok(reader.end())
    }
}

#[derive(Default)]
struct Reader {
    cluster: Cluster,
    /// Kind, namespace and name of what was read.
    read: BTreeSet<(&'static str, String, String)>,
    objects: usize,
}

impl Reader {
    fn path(&mut self, path: &Path, depth: usize) -> Result<(), ManifestError> {
        let fault = |error: &io::Error| file_error(path, format!("cannot be read: {error}"));
        if path == Path::new(STANDARD_INPUT) {
            let text = read_text(path, io::stdin().lock())?;
            return self.text(path, &text);
        }
        if !path.is_dir() {
            let file = File::open(path).map_err(|error| fault(&error))?;
            let text = read_text(path, file)?;
            return self.text(path, &text);
        }
        if depth > MAX_DEPTH {
            return Err(file_error(path, format!("more than {MAX_DEPTH} folders deep")));
        }
        let entries = fs::read_dir(path).map_err(|error| fault(&error))?;
        let entries: Result<Vec<_>, _> = entries.map(|entry| entry.map(|e| e.path())).collect();
        let mut entries = entries.map_err(|error| fault(&error))?;
        entries.sort();
        entries.iter().filter(|entry| is_manifest(entry)).try_for_each(|e| self.path(e, depth + 1))
    }

    fn text(&mut self, file: &Path, text: &str) -> Result<(), ManifestError> {
        // Read twice: what an object is, and then as that, out of the text, so that errors name lines.
        let documents = || yaml_serde::Deserializer::from_str(text);
        for (number, (document, again)) in (1..).zip(documents().zip(documents())) {
            let place = Place { file, document: number, object: String::new() };
            let value = Value::deserialize(document).map_err(|e| place.error(e.to_string()))?;
            self.object(place, Object { value, text: Some(again) })?;
        }
        Ok(())
    }

    fn object(&mut self, mut place: Place<'_>, object: Object<'_>) -> Result<(), ManifestError> {
        if object.value.is_null() {
            return Ok(());
        }
        self.objects += 1;
        if self.objects > MAX_OBJECTS {
            return Err(place.error(format!("more than {MAX_OBJECTS} objects")));
        }
        let head: Head = yaml_serde::from_value(object.value.clone())
            .map_err(|error| place.error(error.to_string()))?;
        let (Some(version), Some(kind)) = (&head.api_version, &head.kind) else {
            return Err(place.error("no apiVersion and kind: expected a Kubernetes object"));
        };
        place.object = named(kind, head.metadata.as_ref());
        match (version.as_str(), kind.as_str()) {
            ("v1", "Namespace") => self.namespace(&place, object),
            ("v1", "Pod") => self.pod(&place, object),
            ("v1", "Node") => self.node(&place, object),
            POLICY => self.network_policy(&place, object),
            CLUSTER_POLICY => self.cluster_policy(&place, object),
            (_, kind) if kind.ends_with("List") && head.items.is_some() => {
                self.list(&place, kind, version, head.items.unwrap_or_default())
            }
            (version, kind) if kind.contains("NetworkPolicy") => Err(place.error(format!(
                "{kind} of {version} is not understood, and would change who reaches whom: expected {} or {}",
                text(POLICY),
                text(CLUSTER_POLICY)
            ))),
            _ => {
                self.note(format!("{}: not read, it is no namespace, pod, node or policy", place.object));
                Ok(())
            }
        }
    }

    /// A list's items; those of a list of one kind need not say theirs.
    fn list(
        &mut self,
        place: &Place<'_>,
        kind: &str,
        version: &str,
        items: Vec<Value>,
    ) -> Result<(), ManifestError> {
        let of = kind.strip_suffix("List").unwrap_or_default();
        for mut item in items {
            if let Value::Mapping(fields) = &mut item
                && !of.is_empty()
            {
                for (key, value) in [("apiVersion", version), ("kind", of)] {
                    if !fields.contains_key(key) {
                        fields.insert(key.into(), value.into());
                    }
                }
            }
            let place =
                Place { file: place.file, document: place.document, object: place.object.clone() };
            self.object(place, Object { value: item, text: None })?;
        }
        Ok(())
    }

    fn namespace(&mut self, place: &Place<'_>, object: Object<'_>) -> Result<(), ManifestError> {
        let (name, labels) =
            typed::<RawNamespace>(place, object)?.check().map_err(|fault| place.error(fault))?;
        self.once(place, "Namespace", "", &name)?;
        self.cluster.namespaces.insert(name, labels);
        Ok(())
    }

    fn pod(&mut self, place: &Place<'_>, object: Object<'_>) -> Result<(), ManifestError> {
        let pod = typed::<RawPod>(place, object)?.check().map_err(|fault| place.error(fault))?;
        self.once(place, "Pod", &pod.namespace, &pod.name)?;
        if self.cluster.pods.len() >= MAX_PEERS {
            return Err(place.error(format!("more than {MAX_PEERS} pods: name fewer files")));
        }
        let name = format!("{}/{}", pod.namespace, pod.name);
        if pod.has_ended {
            self.note(format!("pod {name} has ended: it is left out"));
        } else if pod.is_host_network {
            self.note(format!(
                "pod {name} has its node's network: no policy is for it, and only ipBlock and networks find it"
            ));
        } else if pod.addresses.is_empty() {
            self.note(format!("pod {name} has no status.podIP: no ipBlock or network finds it"));
        }
        self.cluster.pods.push(pod);
        Ok(())
    }

    fn node(&mut self, place: &Place<'_>, object: Object<'_>) -> Result<(), ManifestError> {
        let node = typed::<RawNode>(place, object)?.check().map_err(|fault| place.error(fault))?;
        self.once(place, "Node", "", &node.name)?;
        self.cluster.nodes.push(node);
        Ok(())
    }

    fn network_policy(
        &mut self,
        place: &Place<'_>,
        object: Object<'_>,
    ) -> Result<(), ManifestError> {
        let policy = typed::<network_policy::RawNetworkPolicy>(place, object)?;
        let policy = policy.check().map_err(|fault| place.error(fault))?;
        self.once(place, POLICY.1, &policy.namespace, &policy.name)?;
        self.cluster.network_policies.push(policy);
        Ok(())
    }

    fn cluster_policy(
        &mut self,
        place: &Place<'_>,
        object: Object<'_>,
    ) -> Result<(), ManifestError> {
        let policy = typed::<cluster_policy::RawClusterPolicy>(place, object)?;
        let policy = policy.check().map_err(|fault| place.error(fault))?;
        self.once(place, CLUSTER_POLICY.1, "", &policy.name)?;
        self.cluster.wide_policies.push(policy);
        Ok(())
    }

    /// Two objects of one name are a mistake: a cluster would have one of them.
    fn once(
        &mut self,
        place: &Place<'_>,
        kind: &'static str,
        namespace: &str,
        name: &str,
    ) -> Result<(), ManifestError> {
        if self.read.insert((kind, namespace.to_owned(), name.to_owned())) {
            return Ok(());
        }
        Err(place.error("stands here a second time: expected each object once"))
    }

    fn note(&mut self, text: String) {
        self.cluster.notes.push(text);
    }

    /// What is only known when all is read.
    fn end(mut self) -> Cluster {
        let named = self.cluster.pods.iter().map(|pod| &pod.namespace);
        let policies = self.cluster.network_policies.iter().map(|policy| &policy.namespace);
        let used: BTreeSet<String> = named.chain(policies).cloned().collect();
        for namespace in used {
            if !self.cluster.namespaces.contains_key(&namespace) {
                self.note(format!(
                    "namespace {namespace} has no manifest: it has no labels but its name"
                ));
                let labels = namespace_labels(&namespace, super::label::Labels::new());
                self.cluster.namespaces.insert(namespace.clone(), labels);
                self.cluster.undescribed.push(namespace);
            }
        }
        let policies = &mut self.cluster.wide_policies;
        policies.sort_by(|a, b| (a.tier, a.priority, &a.name).cmp(&(b.tier, b.priority, &b.name)));
        let alike: Vec<String> = policies
            .windows(2)
            .filter_map(|two| match two {
                [a, b] if (a.tier, a.priority) == (b.tier, b.priority) => Some(format!(
                    "ClusterNetworkPolicy {} and {} have the same tier and priority: where both match, a cluster \
                     applies either; here the first does",
                    a.name, b.name
                )),
                _ => None,
            })
            .collect();
        self.cluster.notes.extend(alike);
        self.cluster
    }
}

fn typed<T: DeserializeOwned>(place: &Place<'_>, object: Object<'_>) -> Result<T, ManifestError> {
    let read = match object.text {
        Some(text) => T::deserialize(text),
        None => yaml_serde::from_value(object.value),
    };
    read.map_err(|error| place.error(error.to_string()))
}

fn named(kind: &str, metadata: Option<&HeadMetadata>) -> String {
    let name = metadata.and_then(|metadata| metadata.name.as_deref()).unwrap_or_default();
    match metadata.and_then(|metadata| metadata.namespace.as_deref()) {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}").trim_end().to_owned(),
    }
}

fn text((version, kind): (&str, &str)) -> String {
    format!("{kind} of {version}")
}

fn is_manifest(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or(".");
    let ends = path.extension().and_then(|e| e.to_str());
    !name.starts_with('.') && (path.is_dir() || matches!(ends, Some("yaml" | "yml" | "json")))
}

fn read_text(path: &Path, from: impl Read) -> Result<String, ManifestError> {
    let mut text = String::new();
    from.take(MAX_FILE_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| file_error(path, format!("cannot be read: {error}")))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(file_error(path, format!("larger than {} MiB", MAX_FILE_BYTES >> 20)));
    }
    Ok(text)
}

fn file_error(file: &Path, fault: String) -> ManifestError {
    ManifestError { file: file.to_owned(), document: 0, object: String::new(), fault }
}
