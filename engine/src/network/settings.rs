//! The file of settings for networks: where subnets come from that nobody chose.
//!
//! ```json
//! { "default-address-pools": [ { "base": "10.200.0.0/16", "size": 24 } ] }
//! ```
//!
//! The words are those of Docker's `daemon.json`. `base` is a range of IPv4, `size` the prefix length of each network's
//! part of it.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::Deserialize;

use super::pool::{DEFAULT_POOLS, Pool};

/// The file, unless the variable names another.
const PATH: &str = "/etc/rcompose/networks.json";
const VARIABLE: &str = "RCOMPOSE_NETWORKS";

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("cannot read the settings of networks {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the settings of networks {} are invalid", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error(
        "{}: no networks of size {size} can be cut from the address pool `{base}`: a pool is a range such as \
         10.200.0.0/16, and a size is between its prefix length and 30",
        path.display()
    )]
    Pool { path: PathBuf, base: String, size: u8 },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(rename = "default-address-pools")]
    pools: Vec<PoolSetting>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PoolSetting {
    base: String,
    size: u8,
}

impl PoolSetting {
    fn pool(&self) -> Option<Pool> {
        let (address, prefix) = self.base.split_once('/')?;
        let base = (address.parse::<Ipv4Addr>().ok()?, prefix.parse::<u8>().ok()?);
        (base.1 <= self.size && self.size <= 30).then_some(Pool { base, size: self.size })
    }
}

/// Returns the address pools of this host.
pub(super) fn pools() -> Result<Vec<Pool>, SettingsError> {
    let chosen = std::env::var_os(VARIABLE).map(PathBuf::from);
    let required = chosen.is_some();
    let path = chosen.unwrap_or_else(|| PATH.into());
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !required => return Ok(DEFAULT_POOLS.to_vec()),
        Err(source) => return Err(SettingsError::Read { path, source }),
        Ok(text) => text,
    };
    let settings: Settings =
        serde_json::from_str(&text).map_err(|source| SettingsError::Parse { path: path.clone(), source })?;
    let pool = |setting: PoolSetting| match setting.pool() {
        Some(pool) => Ok(pool),
        None => Err(SettingsError::Pool { path: path.clone(), base: setting.base, size: setting.size }),
    };
    settings.pools.into_iter().map(pool).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_a_range_and_a_size() {
        let pool = |base: &str, size| PoolSetting { base: base.into(), size }.pool();
        let expected = Pool { base: (Ipv4Addr::new(10, 200, 0, 0), 16), size: 24 };
        assert_eq!(pool("10.200.0.0/16", 24), Some(expected));
        for (base, size) in [("10.200.0.0", 24), ("10.200.0.0/16", 15), ("10.200.0.0/16", 31), ("fd00::/8", 64)] {
            assert_eq!(pool(base, size), None, "{base} {size}");
        }
    }
}
