//! Blocks of addresses.

use ipnet::IpNet;
use serde::Deserialize;

/// An `ipBlock` as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBlock {
    cidr: String,
    except: Option<Vec<String>>,
}

/// Addresses of a network without some of its parts.
#[derive(Debug, Clone)]
pub(super) struct Block {
    network: IpNet,
    except: Vec<IpNet>,
}

impl Block {
    /// Whether these addresses are in it; `part` lies within each of the networks it names, or outside of it.
    pub(super) fn contains(&self, part: IpNet) -> bool {
        self.network.contains(&part) && !self.except.iter().any(|net| net.contains(&part))
    }

    /// Every network that it names.
    pub(super) fn networks(&self) -> impl Iterator<Item = IpNet> {
        std::iter::once(self.network).chain(self.except.iter().copied())
    }
}

impl TryFrom<RawBlock> for Block {
    type Error = String;

    fn try_from(raw: RawBlock) -> Result<Self, String> {
        let network = network(&raw.cidr).map_err(|fault| format!("cidr: {fault}"))?;
        let mut except = Vec::new();
        for text in raw.except.unwrap_or_default() {
            let part = self::network(&text).map_err(|fault| format!("except: {fault}"))?;
            if !network.contains(&part) || network == part {
                return Err(format!("except: {text:?} is no strict part of {:?}", raw.cidr));
            }
            except.push(part);
        }
        Ok(Self { network, except })
    }
}

impl From<IpNet> for Block {
    fn from(network: IpNet) -> Self {
        Self { network, except: Vec::new() }
    }
}

/// A network; bits behind the prefix do not matter, as upstream.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let network: IpNet = text
        .parse()
        .map_err(|_| format!("{text:?}: expected a network such as 10.0.0.0/8 or fd00::/8"))?;
    Ok(network.trunc())
}
