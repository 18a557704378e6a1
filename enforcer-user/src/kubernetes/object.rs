//! What is read of Namespace, Pod and Node. Everything else that they say has no bearing on policy.

use std::net::IpAddr;

use serde::Deserialize;

use super::cluster::{Node, Pod};
use super::label::{Labels, NAMESPACE_NAME, check_labels, check_object_name};
use super::port::{NamedPort, Port, Protocol, check_name, number};
use super::text;

/// The namespace of whatever names none.
const DEFAULT_NAMESPACE: &str = "default";

/// Of any object.
#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    #[serde(default, deserialize_with = "text::text")]
    name: Option<String>,
    #[serde(default, deserialize_with = "text::text")]
    namespace: Option<String>,
    #[serde(default, deserialize_with = "text::map")]
    labels: Option<Labels>,
}

impl Metadata {
    pub(super) fn name(&self) -> Result<String, String> {
        let name = self.name.as_deref().ok_or("metadata.name is missing")?;
        check_object_name(name)?;
        Ok(name.to_owned())
    }

    pub(super) fn namespace(&self) -> Result<String, String> {
        let namespace = self.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        check_object_name(namespace).map_err(|fault| format!("metadata.namespace: {fault}"))?;
        Ok(namespace.to_owned())
    }

    fn labels(&self) -> Result<Labels, String> {
        let labels = self.labels.clone().unwrap_or_default();
        check_labels(&labels).map_err(|fault| format!("metadata.labels: {fault}"))?;
        Ok(labels)
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct RawNamespace {
    metadata: Metadata,
}

impl RawNamespace {
    /// Its name and labels.
    pub(super) fn check(&self) -> Result<(String, Labels), String> {
        let name = self.metadata.name()?;
        let labels = namespace_labels(&name, self.metadata.labels()?);
        Ok((name, labels))
    }
}

/// With the one that every namespace has, whatever its manifest says.
pub(super) fn namespace_labels(name: &str, mut labels: Labels) -> Labels {
    labels.insert(NAMESPACE_NAME.to_owned(), name.to_owned());
    labels
}

#[derive(Debug, Deserialize)]
pub(super) struct RawPod {
    metadata: Metadata,
    spec: Option<RawPodSpec>,
    status: Option<RawPodStatus>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPodSpec {
    host_network: Option<bool>,
    containers: Option<Vec<RawContainer>>,
    init_containers: Option<Vec<RawContainer>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawContainer {
    ports: Option<Vec<RawContainerPort>>,
    restart_policy: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawContainerPort {
    name: Option<String>,
    container_port: i64,
    protocol: Option<Protocol>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPodStatus {
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<RawAddress>>,
    phase: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RawAddress {
    ip: String,
}

impl RawPod {
    pub(super) fn check(self) -> Result<Pod, String> {
        let spec = self.spec.unwrap_or_default();
        let status = self.status.unwrap_or_default();
        Ok(Pod {
            namespace: self.metadata.namespace()?,
            name: self.metadata.name()?,
            labels: self.metadata.labels()?,
            is_host_network: spec.host_network.unwrap_or(false),
            has_ended: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            named_ports: spec.named_ports()?,
            addresses: status.addresses()?,
        })
    }
}

impl RawPodSpec {
    /// Of containers that run along with the pod: also of those that are begun before, and stay.
    fn named_ports(self) -> Result<Vec<NamedPort>, String> {
        let stays = |c: &RawContainer| c.restart_policy.as_deref() == Some("Always");
        let before = self.init_containers.unwrap_or_default().into_iter().filter(stays);
        let containers = self.containers.unwrap_or_default().into_iter().chain(before);
        let mut named = Vec::new();
        for port in containers.flat_map(|container| container.ports.unwrap_or_default()) {
            let protocol = port.protocol.unwrap_or_default();
            let port_number = number(port.container_port)?;
            if let Some(name) = port.name {
                check_name(&name)?;
                named.push(NamedPort { name, port: Port { number: port_number, protocol } });
            }
        }
        Ok(named)
    }
}

impl RawPodStatus {
    /// The primary one first.
    fn addresses(self) -> Result<Vec<IpAddr>, String> {
        let others = self.pod_ips.unwrap_or_default().into_iter().map(|address| address.ip);
        let mut addresses = Vec::new();
        for text in self.pod_ip.into_iter().chain(others).filter(|text| !text.is_empty()) {
            let address = address(&text).map_err(|fault| format!("status.podIP: {fault}"))?;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct RawNode {
    metadata: Metadata,
    status: Option<RawNodeStatus>,
}

#[derive(Debug, Deserialize)]
struct RawNodeStatus {
    addresses: Option<Vec<RawNodeAddress>>,
}

#[derive(Debug, Deserialize)]
struct RawNodeAddress {
    address: String,
}

impl RawNode {
    pub(super) fn check(self) -> Result<Node, String> {
        let addresses = self.status.and_then(|status| status.addresses).unwrap_or_default();
        Ok(Node {
            name: self.metadata.name()?,
            labels: self.metadata.labels()?,
            // A node also has names among its addresses.
            addresses: addresses.iter().filter_map(|entry| entry.address.parse().ok()).collect(),
        })
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?}: expected an IPv4 or IPv6 address"))
}
