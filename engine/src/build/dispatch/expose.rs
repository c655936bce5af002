//! `EXPOSE`: `port[-port][/protocol]`.

/// What is exposed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Exposed {
    /// `port/protocol` of each.
    pub(crate) ports: Vec<String>,
    /// It has an address or a port of the host, which means nothing here.
    pub(crate) is_mapping: bool,
    /// The protocol has capital letters.
    pub(crate) has_capitals: bool,
}

/// Reads what is exposed.
pub(crate) fn parse(typed: &str) -> Result<Exposed, String> {
    let (mapping, container) = typed.rsplit_once(':').map_or(("", typed), |(mapping, container)| (mapping, container));
    let (address, host) = mapping.rsplit_once(':').unwrap_or(("", mapping));
    let (range, typed_protocol) = container.split_once('/').unwrap_or((container, ""));
    let invalid = |why: &str| format!("invalid port: {}: {why}", crate::build::dockerfile::go::quote(typed));
    if range.is_empty() {
        return Err(invalid("no port specified"));
    }
    let protocol = match typed_protocol.to_lowercase().as_str() {
        "" | "tcp" => "tcp",
        "udp" => "udp",
        "sctp" => "sctp",
        _ => return Err(invalid(&format!("invalid proto: {typed_protocol}"))),
    };
    let bare = address.strip_prefix('[').and_then(|address| address.strip_suffix(']')).unwrap_or(address);
    if !bare.is_empty() && bare.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("invalid IP address: {bare}"));
    }
    let (first, last) = read_range(range).ok_or_else(|| format!("invalid containerPort: {range}"))?;
    if !host.is_empty() {
        let (host_first, host_last) = read_range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        if last - first != host_last - host_first && first != last {
            return Err(format!("invalid ranges specified for container and host Ports: {range} and {host}"));
        }
    }
    Ok(Exposed {
        ports: (first..=last).map(|port| format!("{port}/{protocol}")).collect(),
        is_mapping: !mapping.is_empty(),
        has_capitals: typed_protocol.to_lowercase() != typed_protocol,
    })
}

fn read_range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read() {
        let ports = |typed| parse(typed).map(|exposed| exposed.ports);
        assert_eq!(ports("80"), Ok(vec!["80/tcp".to_owned()]));
        assert_eq!(ports("8000-8001/UDP"), Ok(vec!["8000/udp".to_owned(), "8001/udp".to_owned()]));
        assert!(parse("80/UDP").unwrap().has_capitals);
        assert!(parse("127.0.0.1:80:80").unwrap().is_mapping && parse("[::1]:80:80").unwrap().is_mapping);
        for wrong in ["", "/tcp", "x", "80/x", "70000", "2-1", "1-2:3-9", "x:80:80", "x:80"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
