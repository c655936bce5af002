//! What Docker's structures have for maps and lists, which a JSON document does not tell.

/// What Go has under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A structure, a text, a number: a name that it does not have is a mistake.
    Plain,
    /// A map: it may lack any name.
    Map,
    /// A list.
    List,
}

/// Returns what the field of this name is.
pub(super) fn of(field: &str) -> Shape {
    match field {
        "Labels" | "Annotations" | "Options" | "DriverOpts" | "Sysctls" | "Ports" | "Networks" | "ExposedPorts"
        | "Volumes" | "PortBindings" | "Tmpfs" | "StorageOpt" | "Containers" | "Data" => Shape::Map,
        "Entrypoint" | "Cmd" | "Env" | "OnBuild" | "Shell" | "Args" | "Layers" | "RepoTags" | "RepoDigests"
        | "Mounts" | "Binds" | "CapAdd" | "CapDrop" | "Dns" | "DnsOptions" | "DnsSearch" | "ExtraHosts"
        | "GroupAdd" | "SecurityOpt" | "Devices" | "Ulimits" | "Aliases" | "DNSNames" | "Links" | "ExecIDs"
        | "MaskedPaths" | "ReadonlyPaths" | "VolumesFrom" | "Test" | "Log" | "Publishers" => Shape::List,
        _ => Shape::Plain,
    }
}
