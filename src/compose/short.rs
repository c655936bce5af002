//! The short forms of ports and volumes.

/// What a short volume says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShortVolume {
    /// A bind mount (else a volume).
    pub bind: bool,
    /// Path or name; empty for an anonymous volume.
    pub source: String,
    /// The path in the container.
    pub target: String,
    /// `ro`
    pub read_only: bool,
    /// `nocopy`
    pub nocopy: bool,
    /// `z` or `Z`
    pub selinux: Option<String>,
    /// `rshared` and the like
    pub propagation: Option<String>,
    /// A text of one or two characters, which Docker Compose gives no options at all.
    pub tiny: bool,
}

/// Reads `[SOURCE:]TARGET[:OPTIONS]`.
pub fn volume(spec: &str) -> Result<ShortVolume, String> {
    let mut volume = ShortVolume::default();
    match spec.len() {
        0 => return Err("invalid empty volume spec".to_owned()),
        1 | 2 => {
            spec.clone_into(&mut volume.target);
            volume.tiny = true;
            return Ok(volume);
        }
        _ => {}
    }
    let invalid = |why: &str| format!("invalid spec: {spec}: {why}");
    let mut field = String::new();
    let mut depth = 0_usize;
    let mut characters = spec.chars().peekable();
    loop {
        let next = characters.next();
        match next {
            Some('$') if characters.peek() == Some(&'{') => {
                depth += 1;
                field.push('$');
            }
            Some('}') if depth > 0 => {
                depth -= 1;
                field.push('}');
            }
            Some(':') if is_drive(&field) => field.push(':'),
            Some(':') if depth == 0 => {
                populate(&mut volume, &field, false).map_err(invalid)?;
                field.clear();
            }
            Some(other) => field.push(other),
            None => {
                // A variable that is not closed swallows the end, and with it the last part.
                if depth == 0 {
                    populate(&mut volume, &field, true).map_err(invalid)?;
                }
                break;
            }
        }
    }
    volume.bind = is_path(&volume.source);
    Ok(volume)
}

fn populate(volume: &mut ShortVolume, field: &str, last: bool) -> Result<(), &'static str> {
    if field.is_empty() {
        return Err("empty section between colons");
    }
    if volume.source.is_empty() && last {
        field.clone_into(&mut volume.target);
        return Ok(());
    }
    if volume.source.is_empty() {
        field.clone_into(&mut volume.source);
        return Ok(());
    }
    if volume.target.is_empty() {
        field.clone_into(&mut volume.target);
        return Ok(());
    }
    if !last {
        return Err("too many colons");
    }
    for option in field.split(',') {
        match option {
            "ro" => volume.read_only = true,
            "rw" => volume.read_only = false,
            "nocopy" => volume.nocopy = true,
            "z" | "Z" => volume.selinux = Some(option.to_owned()),
            "rprivate" | "private" | "rshared" | "shared" | "rslave" | "slave" => {
                volume.propagation = Some(option.to_owned());
            }
            // Docker Compose ignores what it does not know.
            _ => {}
        }
    }
    Ok(())
}

/// Whether a colon behind this text belongs to it: `C:`.
fn is_drive(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(char::is_alphabetic) && characters.next().is_none()
}

/// Whether a source is a path of the host and not the name of a volume.
fn is_path(source: &str) -> bool {
    let mut characters = source.chars();
    match characters.next() {
        None => false,
        Some('.' | '/' | '~') => true,
        Some(_) if source.starts_with("\\\\") => true,
        Some(first) => first.is_alphabetic() && characters.next() == Some(':'),
    }
}

/// What a short port says, one for each port of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShortPort {
    /// An address of the host; empty: all.
    pub host_ip: String,
    /// A port or a range of the host; empty: any.
    pub published: String,
    /// The container's port.
    pub target: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
}

/// Reads `[[IP:]HOST:]CONTAINER[/PROTOCOL]`, where HOST and CONTAINER may be ranges.
pub fn ports(spec: &str) -> Result<Vec<ShortPort>, String> {
    let (host_ip, published, target) = split_port(spec);
    let (protocol, target) = split_protocol(target);
    let protocol = protocol.to_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(if target.is_empty() {
            format!("no port specified: {spec}<empty>")
        } else {
            format!("invalid proto: {protocol}")
        });
    }
    let host_ip = host_address(host_ip)?;
    if target.is_empty() {
        return Err(format!("no port specified: {spec}<empty>"));
    }
    let (first, last) = range(target).ok_or_else(|| format!("invalid containerPort: {target}"))?;
    let host_range = if published.is_empty() {
        None
    } else {
        let (host_first, host_last) = range(published).ok_or_else(|| format!("invalid hostPort: {published}"))?;
        if last - first != host_last - host_first && first != last {
            return Err(format!("invalid ranges specified for container and host Ports: {target} and {published}"));
        }
        Some((host_first, host_last))
    };
    let mut ports: Vec<ShortPort> = (first..=last)
        .map(|target| ShortPort {
            host_ip: host_ip.clone(),
            published: match host_range {
                None => String::new(),
                Some((low, high)) if first == last && low != high => format!("{low}-{high}"),
                Some((low, _)) => (low + (target - first)).to_string(),
            },
            target,
            protocol: protocol.clone(),
        })
        .collect();
    // Sorted as text: 10 stands before 8, as in Docker Compose.
    ports.sort_by_cached_key(|port| port.target.to_string());
    Ok(ports)
}

fn split_port(spec: &str) -> (&str, &str, &str) {
    let Some((rest, target)) = spec.rsplit_once(':') else { return ("", "", spec) };
    rest.rsplit_once(':').map_or(("", rest, target), |(host_ip, published)| (host_ip, published, target))
}

fn split_protocol(target: &str) -> (&str, &str) {
    let mut parts = target.split('/');
    let port = parts.next().unwrap_or("");
    match parts.next() {
        _ if port.is_empty() => ("", ""),
        None | Some("") => ("tcp", port),
        Some(protocol) => (protocol, port),
    }
}

fn host_address(text: &str) -> Result<String, String> {
    let invalid = || format!("invalid IP address: {text}");
    if text.is_empty() {
        return Ok(String::new());
    }
    let address = match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or_else(invalid)?,
        None if text.contains(':') => return Err(format!("{}: write IPv6 addresses in brackets: [{text}]", invalid())),
        None => text,
    };
    if !is_ip_address(address) {
        return Err(invalid());
    }
    Ok(address.to_owned())
}

/// Whether a text is an IP address for Go's `net.ParseIP`.
pub fn is_ip_address(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok()
}

fn range(text: &str) -> Option<(u16, u16)> {
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten();
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_have_up_to_three_parts() {
        let check = |spec: &str, bind, source: &str, target: &str| {
            let volume = volume(spec).expect(spec);
            assert_eq!((volume.bind, volume.source.as_str(), volume.target.as_str()), (bind, source, target), "{spec}");
        };
        check("/data", false, "", "/data");
        check("./rel", false, "", "./rel");
        check("name:/data", false, "name", "/data");
        check("./a:/b:ro", true, "./a", "/b");
        check("~/a:/b", true, "~/a", "/b");
        check("c:\\a:d:\\b", true, "c:\\a", "d:\\b");
        check("${X:-y}:/b", false, "${X:-y}", "/b");
        check("a", false, "", "a");
        let options = volume("./a:/b:ro,Z,rshared,nonsense").expect("valid");
        assert_eq!(
            (options.read_only, options.selinux.as_deref(), options.propagation.as_deref()),
            (true, Some("Z"), Some("rshared"))
        );
        for wrong in ["", "aa::b", ":/b", "aa:/b:ro:x", "aa:/b:"] {
            assert!(volume(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ports_have_ranges() {
        let check = |spec: &str, expected: &[(&str, &str, u16, &str)]| {
            let ports = ports(spec).expect(spec);
            let found: Vec<_> = ports
                .iter()
                .map(|port| (port.host_ip.as_str(), port.published.as_str(), port.target, port.protocol.as_str()))
                .collect();
            assert_eq!(found, expected, "{spec}");
        };
        check("80", &[("", "", 80, "tcp")]);
        check("8080:80/UDP", &[("", "8080", 80, "udp")]);
        check("127.0.0.1:8080:80", &[("127.0.0.1", "8080", 80, "tcp")]);
        check("127.0.0.1::80", &[("127.0.0.1", "", 80, "tcp")]);
        check("[::1]:8080:80", &[("::1", "8080", 80, "tcp")]);
        check("9-10:9-10", &[("", "10", 10, "tcp"), ("", "9", 9, "tcp")]);
        check("80-81:90", &[("", "80-81", 90, "tcp")]);
        for wrong in ["", "x", "80/", "99999", "80:", "1-2:3-5", "5-4", "nohost:80:80", "80/icmp", "1:2:3:4:5:6"] {
            if wrong == "80/" {
                assert!(ports(wrong).is_ok());
            } else {
                assert!(ports(wrong).is_err(), "{wrong}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn short_forms_never_panic(text in "[a-c0-9:/.,${}\\-\\[\\]\\\\~é ]{0,20}") {
            let _ = volume(&text);
            let _ = ports(&text);
        }
    }
}
