//! `logging`: Docker's drivers and their options. Whatever the driver, the log is kept here too, so that `logs` shows it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use rcompose_engine::container::config::{
    ContainerConfig, Forward, LogConfig, LogFile, Receiver, SyslogAddress, SyslogFormat,
};
use regex::Regex;
use serde_json::json;

use super::resources;
use crate::compose::model::Logging;
use crate::compose::units;
use crate::template::Template;

/// Drivers of Docker whose receivers are services of others. The log is kept as by json-file ([`super::unhonoured`]).
pub(super) const ELSEWHERE: [&str; 5] = ["awslogs", "fluentd", "gcplogs", "gelf", "splunk"];

/// What Docker keeps of a log whose lines go elsewhere.
const KEPT: LogSize = (Some(20 << 20), 5);
type LogSize = (Option<u64>, u32);

/// Options that every driver but `none` and `local` has, besides `mode` and `max-buffer-size`.
const OF_ALL: [&str; 5] = ["env", "env-regex", "labels", "labels-regex", "tag"];
/// How the copy is kept from which `logs` reads.
const OF_CACHE: [&str; 4] = ["cache-disabled", "cache-max-file", "cache-max-size", "cache-compress"];

/// What may wait for a receiver with `mode: non-blocking`, in bytes.
const RING: u64 = 1 << 20;
/// The port of syslog.
const SYSLOG: u16 = 514;

/// Facilities by name, in the order of their numbers (`syslog(3)`); those that have no name there are 12 to 15.
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "", "", "",
    "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];

/// Returns the log of a container that is made as `config` says, of an image with these variables; what is wrong is said in
/// Docker's words.
pub(super) fn log(
    logging: Option<&Logging>,
    config: &ContainerConfig,
    of_image: &[String],
) -> Result<LogConfig, String> {
    let Some(logging) = logging else { return Ok(LogConfig::default()) };
    let driver = match logging.driver.as_deref().unwrap_or_default() {
        "" => "json-file",
        "none" => return Ok(LogConfig::None),
        driver => driver,
    };
    let own: &[&str] = match driver {
        "json-file" | "local" => &["compress", "max-file", "max-size"],
        "syslog" => &["syslog-address", "syslog-facility", "syslog-format"],
        "journald" => &[],
        driver if ELSEWHERE.contains(&driver) => return Ok(LogConfig::JsonFile(asked(driver, logging))),
        driver => return Err(format!("no log driver named '{driver}' is registered")),
    };
    let options = Options(&logging.options);
    let known = |name: &str| {
        let shared = driver != "local" && OF_ALL.contains(&name);
        let cache = !matches!(driver, "json-file" | "local") && OF_CACHE.contains(&name);
        own.contains(&name) || shared || cache || matches!(name, "mode" | "max-buffer-size")
    };
    if let Some(name) = logging.options.keys().find(|name| !known(name)) {
        let hint = if name.starts_with("syslog-tls") || name.starts_with("tls") { " (TLS is not there)" } else { "" };
        return Err(format!("unknown log opt '{name}' for {driver} log driver{hint}"));
    }
    let mut file = asked(driver, logging);
    let buffer = options.buffer()?;
    let extra = options.extra(config, of_image)?;
    let tag = options.get("tag").map(|template| tag(template, config)).transpose()?;
    let default_tag = || config.id.short().to_owned();
    match driver {
        "syslog" => {
            let receiver = Receiver::Syslog {
                address: address(options.get("syslog-address").unwrap_or_default())?,
                facility: facility(options.get("syslog-facility").unwrap_or("daemon"))?,
                format: syslog_format(options.get("syslog-format").unwrap_or_default())?,
                tag: tag.unwrap_or_else(default_tag),
            };
            file.forward = Some(Forward { receiver, buffer });
        }
        "journald" => {
            let fields = fields(config, extra, tag.unwrap_or_else(default_tag));
            file.forward = Some(Forward { receiver: Receiver::Journald { fields }, buffer });
        }
        _ => {
            file.attributes = extra;
            file.attributes.extend(tag.map(|tag| ("tag".to_owned(), tag)));
        }
    }
    let prefix = if matches!(driver, "json-file" | "local") { "" } else { "cache-" };
    let (size, files) = if driver == "json-file" { (None, 1) } else { KEPT };
    file.max_size = options.size(&format!("{prefix}max-size"), size)?;
    file.max_file = options.files(&format!("{prefix}max-file"), files)?;
    if driver == "json-file"
        && options.get("compress") == Some("true")
        && (file.max_file < 2 || file.max_size.is_none())
    {
        return Err("compress cannot be true when max-file is less than 2 or max-size is not set".to_owned());
    }
    Ok(LogConfig::JsonFile(file))
}

fn asked(driver: &str, logging: &Logging) -> LogFile {
    LogFile { asked: Some((driver.to_owned(), logging.options.clone())), ..LogFile::default() }
}

/// The options of a driver.
struct Options<'a>(&'a BTreeMap<String, String>);

impl<'a> Options<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(String::as_str)
    }

    fn size(&self, name: &str, default: Option<u64>) -> Result<Option<u64>, String> {
        match self.get(name) {
            None => Ok(default),
            Some("-1") => Ok(None),
            Some(text) => bytes(name, text).map(Some),
        }
    }

    fn files(&self, name: &str, default: u32) -> Result<u32, String> {
        let Some(text) = self.get(name) else { return Ok(default) };
        text.parse().ok().filter(|files| *files > 0).ok_or_else(|| format!("{name}: `{text}` is not valid"))
    }

    /// Returns how much may wait for a receiver; `None`: the container does.
    fn buffer(&self) -> Result<Option<u64>, String> {
        match (self.get("mode").unwrap_or("blocking"), self.get("max-buffer-size")) {
            ("blocking", None) => Ok(None),
            ("blocking", Some(_)) => {
                Err("max-buffer-size option is only supported with 'mode=non-blocking'".to_owned())
            }
            ("non-blocking", size) => size.map_or(Ok(RING), |text| bytes("max-buffer-size", text)).map(Some),
            (mode, _) => Err(format!("logging mode not supported: {mode}")),
        }
    }

    /// Returns the labels and variables of the container that its lines are to have.
    fn extra(&self, config: &ContainerConfig, of_image: &[String]) -> Result<BTreeMap<String, String>, String> {
        let mut extra = BTreeMap::new();
        let of_image = of_image.iter().filter_map(|variable| variable.split_once('='));
        let mut environment: BTreeMap<&str, &str> = of_image.collect();
        for (name, value) in &config.environment {
            match value {
                Some(value) => environment.insert(name, value),
                None => environment.remove(&**name),
            };
        }
        let labels = config.labels.iter().map(|(name, value)| (&**name, &**value)).collect();
        let there: [(&str, BTreeMap<&str, &str>); 2] = [("labels", labels), ("env", environment)];
        for (option, there) in there {
            let listed = self.get(option).unwrap_or_default().split(',');
            let names: Vec<&str> = listed.filter(|name| !name.is_empty()).collect();
            let pattern = self.get(&format!("{option}-regex")).map(Regex::new).transpose();
            let pattern = pattern.map_err(|error| format!("{option}-regex: {error}"))?;
            let wanted =
                |name: &str| names.contains(&name) || pattern.as_ref().is_some_and(|pattern| pattern.is_match(name));
            let chosen = there.into_iter().filter(|(name, _)| wanted(name));
            extra.extend(chosen.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        Ok(extra)
    }
}

fn bytes(option: &str, text: &str) -> Result<u64, String> {
    units::parse_bytes(text)
        .ok()
        .and_then(resources::positive)
        .ok_or_else(|| format!("{option}: `{text}` is not valid"))
}

/// Returns what a template of Docker's log tags makes of a container.
fn tag(template: &str, config: &ContainerConfig) -> Result<String, String> {
    let image_id = config.image_id.trim_start_matches("sha256:");
    let words = config.entrypoint.iter().chain(&config.command).flatten();
    let info = json!({
        "ID": config.id.short(),
        "FullID": config.id.as_str(),
        "Name": config.name,
        "ImageID": image_id.get(..12).unwrap_or(image_id),
        "ImageFullID": config.image_id,
        "ImageName": config.image,
        "DaemonName": "docker",
        "Command": words.cloned().collect::<Vec<_>>().join(" "),
    });
    let parsed = Template::parse(template).and_then(|parsed| parsed.execute(&info));
    parsed.map_err(|error| format!("tag: {error}"))
}

/// Returns what the journal has of a container in each of its messages.
fn fields(config: &ContainerConfig, extra: BTreeMap<String, String>, tag: String) -> BTreeMap<String, String> {
    let mut fields: BTreeMap<String, String> = extra
        .into_iter()
        .map(|(name, value)| (field_name(&name), value))
        .filter(|(name, _)| !name.is_empty())
        .collect();
    for (name, value) in [
        ("CONTAINER_ID", config.id.short().to_owned()),
        ("CONTAINER_ID_FULL", config.id.to_string()),
        ("CONTAINER_NAME", config.name.clone()),
        ("CONTAINER_TAG", tag.clone()),
        ("IMAGE_NAME", config.image.clone()),
        ("SYSLOG_IDENTIFIER", tag),
    ] {
        fields.insert(name.to_owned(), value);
    }
    fields
}

/// Returns a name that the journal takes: capitals, digits and underscores, which do not come first.
fn field_name(name: &str) -> String {
    let fits = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' };
    name.chars().map(fits).collect::<String>().trim_start_matches('_').to_owned()
}

fn address(text: &str) -> Result<SyslogAddress, String> {
    if text.is_empty() {
        return Ok(SyslogAddress::Local);
    }
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    match scheme {
        "unix" => Ok(SyslogAddress::Unix(PathBuf::from(rest))),
        "unixgram" => Ok(SyslogAddress::Unixgram(PathBuf::from(rest))),
        "udp" => socket_address(rest).map(SyslogAddress::Udp),
        "tcp" => socket_address(rest).map(SyslogAddress::Tcp),
        "tcp+tls" => Err(format!("syslog-address: `{text}`: TLS is not there; use tcp:// or a syslog of this host")),
        scheme => Err(format!("unsupported scheme: '{scheme}'")),
    }
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim_end_matches('/');
    let named = text.replacen("localhost", "127.0.0.1", 1);
    let ip = |text: &str| text.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    if named.is_empty() || named.starts_with(':') {
        let port = named.trim_start_matches(':');
        let port = if port.is_empty() { Some(SYSLOG) } else { port.parse().ok() };
        return port
            .map(|port| (Ipv4Addr::LOCALHOST, port).into())
            .ok_or_else(|| format!("syslog-address: `{text}` has no port"));
    }
    let address = named.parse().ok().or_else(|| Some((ip(&named)?, SYSLOG).into()));
    address.ok_or_else(|| format!("syslog-address: `{text}` is not a number: names are not resolved for the log"))
}

fn facility(text: &str) -> Result<u8, String> {
    let position = FACILITIES.iter().position(|name| !name.is_empty() && *name == text);
    let number = position.or_else(|| text.parse().ok().filter(|number| *number < FACILITIES.len()));
    number.and_then(|number| u8::try_from(number).ok()).ok_or_else(|| format!("invalid syslog facility `{text}`"))
}

fn syslog_format(text: &str) -> Result<SyslogFormat, String> {
    Ok(match text {
        "" => SyslogFormat::Unix,
        "rfc3164" => SyslogFormat::Rfc3164,
        "rfc5424" => SyslogFormat::Rfc5424,
        "rfc5424micro" => SyslogFormat::Rfc5424Micro,
        text => return Err(format!("invalid syslog format `{text}`: rfc3164, rfc5424 or rfc5424micro")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the image of the container below has in its environment.
    const OF_IMAGE: [&str; 3] = ["E1=of the image", "I1=w1", "PATH=/bin"];

    fn made(driver: &str, options: &[(&str, &str)]) -> Result<LogFile, String> {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let logging = Logging { driver: Some(driver.to_owned()), options };
        let config = ContainerConfig {
            environment: [("E1".to_owned(), Some("v1".to_owned())), ("E2".to_owned(), Some("v2".to_owned()))].into(),
            labels: [("l1".to_owned(), "x".to_owned()), ("_odd.one".to_owned(), "y".to_owned())].into(),
            id: "0".repeat(64).parse().unwrap(),
            ..ContainerConfig::new("shop-web-1".into(), "shop".into(), "busybox".into(), String::new())
        };
        match log(Some(&logging), &config, &OF_IMAGE.map(str::to_owned))? {
            LogConfig::JsonFile(file) => Ok(file),
            LogConfig::None => Err("none".to_owned()),
        }
    }

    #[test]
    fn addresses_of_a_syslog_are_read() {
        let read = |text| address(text).map(|address| address.to_string());
        assert_eq!(read(""), Ok("/dev/log".into()));
        for text in ["unix:///a/b", "unixgram:///a", "udp://10.0.0.1:99", "tcp://[::1]:514"] {
            assert_eq!(read(text), Ok(text.to_owned()));
        }
        assert_eq!(read("udp://localhost"), Ok("udp://127.0.0.1:514".into()));
        assert_eq!(read("tcp://:601"), Ok("tcp://127.0.0.1:601".into()));
        assert_eq!(read("foo://x"), Err("unsupported scheme: 'foo'".into()));
        assert!(read("tcp://logs.example:514").unwrap_err().contains("names are not resolved"));
        assert!(read("tcp+tls://10.0.0.1").unwrap_err().contains("TLS"));
    }

    #[test]
    fn entries_have_what_was_asked_for() {
        let options = [("tag", "{{.Name}}/{{.ID}}"), ("labels", "l1,none"), ("env-regex", "^E")];
        let file = made("json-file", &options).unwrap();
        let attributes: Vec<_> = file.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(attributes, ["E1=v1", "E2=v2", "l1=x", "tag=shop-web-1/000000000000"]);
        let of_both = made("json-file", &[("env", "E1,I1,GONE")]).unwrap().attributes;
        assert_eq!(of_both, [("E1", "v1"), ("I1", "w1")].map(|(name, value)| (name.into(), value.into())).into());
        assert!(made("json-file", &[("tag", "{{.Nope}}")]).unwrap_err().starts_with("tag: "));
        assert!(made("json-file", &[("env-regex", "(")]).unwrap_err().starts_with("env-regex: "));
    }

    #[test]
    fn the_journal_gets_dockers_fields() {
        let forward = made("journald", &[("labels-regex", "odd"), ("tag", "t")]).unwrap().forward.unwrap();
        let Receiver::Journald { fields } = forward.receiver else { panic!("it is for the journal") };
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let id = "0".repeat(64);
        let want = [
            "CONTAINER_ID=000000000000",
            &format!("CONTAINER_ID_FULL={id}"),
            "CONTAINER_NAME=shop-web-1",
            "CONTAINER_TAG=t",
            "IMAGE_NAME=busybox",
            "ODD_ONE=y",
            "SYSLOG_IDENTIFIER=t",
        ];
        assert_eq!(fields, want);
    }

    #[test]
    fn options_that_no_driver_has_are_errors() {
        for (driver, option, value, why) in [
            ("json-file", "nonsense", "x", "unknown log opt 'nonsense' for json-file log driver"),
            ("local", "tag", "x", "unknown log opt 'tag' for local log driver"),
            ("syslog", "max-size", "1m", "unknown log opt 'max-size' for syslog log driver"),
            ("syslog", "syslog-facility", "nope", "invalid syslog facility `nope`"),
            ("syslog", "syslog-format", "nope", "invalid syslog format `nope`: rfc3164, rfc5424 or rfc5424micro"),
            ("json-file", "mode", "nope", "logging mode not supported: nope"),
            ("json-file", "max-size", "ten", "max-size: `ten` is not valid"),
            ("json-file", "max-file", "0", "max-file: `0` is not valid"),
            ("nope", "a", "b", "no log driver named 'nope' is registered"),
        ] {
            assert_eq!(made(driver, &[(option, value)]).unwrap_err(), why);
        }
        assert!(made("json-file", &[("max-buffer-size", "1m")]).is_err());
        assert!(made("json-file", &[("compress", "true")]).is_err());
        let ring = |size: &[(&str, &str)]| {
            made("syslog", &[&[("mode", "non-blocking")], size].concat()).unwrap().forward.unwrap().buffer
        };
        assert_eq!((ring(&[]), ring(&[("max-buffer-size", "4m")])), (Some(RING), Some(4 << 20)));
    }

    #[test]
    fn each_driver_keeps_as_much_as_dockers() {
        let size = |driver: &str, options: &[(&str, &str)]| {
            let file = made(driver, options).unwrap();
            (file.max_size, file.max_file)
        };
        assert_eq!(size("json-file", &[]), (None, 1));
        assert_eq!(size("json-file", &[("max-size", "10m"), ("max-file", "3")]), (Some(10 << 20), 3));
        assert_eq!(size("local", &[]), KEPT);
        assert_eq!(size("syslog", &[("cache-max-size", "1m")]), (Some(1 << 20), 5));
        assert_eq!(size("gelf", &[("anything", "goes")]), (None, 1));
    }
}
