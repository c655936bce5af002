//! Capabilities by name (`capabilities(7)`), and which ones a container gets.

use oci_spec::runtime::{Capabilities, Capability};

use crate::sys::capabilities::Set;

/// Every capability, in the order of its number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container gets unless told, as Docker.
const DEFAULTS: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Returns the number of a capability; `cap_` in front and the case do not matter.
pub fn number(name: &str) -> Option<u32> {
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    NAMES.iter().position(|known| *known == name).and_then(|index| u32::try_from(index).ok())
}

/// Returns all capabilities that exist here: what this process may pass on.
pub fn available() -> Set {
    crate::sys::capabilities::permitted().unwrap_or_default()
}

/// Returns whether this process has a capability, by its name in [`NAMES`].
pub(super) fn has(name: &str) -> bool {
    number(name).is_some_and(|number| available().0 & (1 << number) != 0)
}

/// Returns the set that results from what a service adds and drops (`ALL` stands for every one), or the name that does
/// not exist.
pub fn resolve(add: &[String], drop: &[String], all: Set) -> Result<Set, String> {
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL");
    let bits = |names: &[String]| {
        names
            .iter()
            .filter(|name| !is_all(name))
            .try_fold(0_u64, |bits, name| number(name).map(|number| bits | 1 << number).ok_or_else(|| name.clone()))
    };
    let (added, dropped) = (bits(add)?, bits(drop)?);
    let defaults = DEFAULTS.iter().filter_map(|name| number(name)).fold(0, |bits, number| bits | 1 << number);
    let base = match (add.iter().any(is_all), drop.iter().any(is_all)) {
        // What is added by name survives `drop: ALL`; what is dropped by name is missing from `add: ALL`.
        (true, _) => all.0 & !dropped | added,
        (false, true) => added,
        (false, false) => defaults & !dropped | added,
    };
    Ok(Set(base & all.0))
}

/// Converts the set of an OCI configuration.
pub fn from_oci(names: Option<&Capabilities>) -> Set {
    let bits = names.into_iter().flatten().filter_map(|name| number(&name.to_string()));
    Set(bits.fold(0, |bits, number| bits | 1 << number))
}

/// Converts to the set of an OCI configuration.
pub fn to_oci(set: Set) -> Capabilities {
    let names = NAMES.iter().enumerate().filter(|(index, _)| set.0 & (1 << index) != 0);
    names.filter_map(|(_, name)| name.parse::<Capability>().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_name_survives_the_oci_form() {
        let all = Set((1 << NAMES.len()) - 1);
        assert_eq!(from_oci(Some(&to_oci(all))), all);
    }

    #[test]
    fn added_and_dropped_as_docker_does() {
        let all = Set((1 << NAMES.len()) - 1);
        let default = resolve(&[], &[], all).unwrap();
        assert_eq!(default.0, 0xa804_25fb);
        assert_eq!(resolve(&list(&["net_bind_service"]), &list(&["ALL"]), all).unwrap().0, 1 << 10);
        assert_eq!(resolve(&list(&["ALL"]), &list(&["CAP_SYS_ADMIN"]), all).unwrap().0, all.0 & !(1 << 21));
        assert_eq!(resolve(&list(&["SYS_TIME"]), &list(&["MKNOD"]), all).unwrap().0, default.0 & !(1 << 27) | 1 << 25);
        assert_eq!(resolve(&list(&["NONSENSE"]), &[], all), Err("NONSENSE".into()));
    }
}
