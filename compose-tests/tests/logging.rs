//! What a container writes on its way to syslog and the journal, and what its log has of it as well.

use std::{
    fs,
    io::Read as _,
    net::{TcpListener, UdpSocket},
    os::unix::net::UnixDatagram,
    path::Path,
};

use compose_tests::{stack::Stack, wait};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use serde_json::json;

/// A container that writes to both outputs, an empty line, and a part of a line.
const SPEAKER: &str = "    image: busybox
    command: [sh, -c, 'echo out; echo err >&2; echo; printf part']
    environment: {E1: v1}
    labels: {l1: x}
";

fn stack(name: &str, logging: &str) -> Stack {
    let stack = Stack::new(name);
    let logging = stack.fill(logging);
    stack.write("compose.yaml", &format!("services:\n  speaker:\n{SPEAKER}    logging: {logging}\n"));
    stack
}

/// Returns what a receiver has got, when there are three messages.
fn messages(mut receive: impl FnMut() -> Option<String>) -> Vec<String> {
    let mut got: Vec<String> = Vec::new();
    wait::until(wait::PATIENCE, "three messages", || {
        while let Some(text) = receive() {
            got.extend(text.lines().map(str::to_owned));
        }
        if got.len() == 3 { Ok(()) } else { Err(format!("{got:#?}")) }
    });
    got.sort();
    got
}

/// Takes the time and the process from messages of syslog.
fn timeless(messages: &[String], process: impl Fn(&str) -> String) -> Vec<String> {
    messages.iter().map(|message| process(message)).collect()
}

/// Returns the output of the service, which the log has as well.
fn logs(stack: &Stack) -> Vec<String> {
    let logs = stack.run(&["logs", "--no-log-prefix"]).ok().stdout;
    let mut lines: Vec<String> = logs.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn syslog_of_the_host_gets_the_lines_with_the_tag() {
    let stack = stack(
        "syslog",
        "{driver: syslog, options: {syslog-address: 'unixgram://{folder}/socket', \
         syslog-facility: local3, tag: '{{.Name}}/{{.ImageName}}'}}",
    );
    let receiver = UnixDatagram::bind(stack.project_folder().join("socket")).unwrap();
    receiver.set_nonblocking(true).unwrap();
    stack.run(&["up", "-d"]).ok();
    let mut buffer = [0; 4096];
    let got = messages(|| {
        let count = receiver.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..count]).into_owned())
    });
    // `<priority>Mmm dd hh:mm:ss tag[process]: text`
    let got = timeless(&got, |text| format!("{} {}", &text[..5], text[21..].split_once(']').unwrap().1));
    assert_eq!(got, ["<155> : err", "<158> : out", "<158> : part"]);
    assert_eq!(logs(&stack), ["", "err", "out", "part"]);
    let tag = format!(" {}-speaker-1/busybox[", stack.project);
    stack.run(&["restart", "speaker"]).ok();
    assert!(
        messages(|| {
            let count = receiver.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..count]).into_owned())
        })
        .iter()
        .all(|message| message.contains(&tag))
    );
    let inspected = stack.run(&["inspect", "speaker", "--format", "{{json .HostConfig.LogConfig}}"]).ok().stdout;
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!((&inspected["Type"], &inspected["Config"]["syslog-facility"]), (&json!("syslog"), &json!("local3")));
    stack.finish();
}

#[test]
fn syslog_gets_the_lines_over_udp_and_tcp() {
    let mut stack =
        stack("remote", "{driver: syslog, options: {syslog-address: '${ADDRESS}', syslog-format: '${FORM}'}}");
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_nonblocking(true).unwrap();
    stack.set("ADDRESS", &format!("udp://{}", udp.local_addr().unwrap()));
    stack.set("FORM", "rfc5424micro");
    stack.run(&["up", "-d"]).ok();
    let mut buffer = [0; 4096];
    let got = messages(|| {
        let count = udp.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..count]).into_owned())
    });
    let host = nix::unistd::gethostname().unwrap().to_string_lossy().into_owned();
    // `<priority>1 time host tag process tag - text`
    let form = |text: &str| {
        let words: Vec<&str> = text.split(' ').collect();
        assert_eq!((words[2], words[3], words[6]), (host.as_str(), words[5], "-"), "{text}");
        assert!(words[1].contains('.') && words[3].len() == 12, "{text}");
        format!("{} {}", words[0], words[7])
    };
    assert_eq!(timeless(&got, form), ["<27>1 err", "<30>1 out", "<30>1 part"]);

    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    stack.set("ADDRESS", &format!("tcp://{}", tcp.local_addr().unwrap()));
    stack.set("FORM", "rfc3164");
    stack.run(&["up", "-d"]).ok();
    let (mut connection, _) = tcp.accept().unwrap();
    let mut text = String::new();
    // It ends with the container.
    connection.read_to_string(&mut text).unwrap();
    let mut got: Vec<&str> = text.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
    got.sort_unstable();
    assert_eq!(got, ["err", "out", "part"], "{text}");
    assert!(text.lines().all(|line| line.contains(&format!(" {host} "))), "{text}");
    drop((connection, tcp));

    let failed = stack.run(&["up", "-d", "--force-recreate"]).fails();
    failed.complains("cannot connect to syslog at tcp://127.0.0.1:").complains("Connection refused");
    stack.finish();
}

#[test]
fn the_journal_gets_the_lines_with_what_they_belong_to() {
    let stack = stack("journal", "{driver: journald, options: {tag: me, labels: l1, env: E1}}");
    // A journal of this thread's own, whatever the host has.
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    stack.run(&["up", "-d"]).fails().complains("journald is not there");
    let socket = Path::new("/run/systemd/journal/socket");
    fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let receiver = UnixDatagram::bind(socket).unwrap();
    receiver.set_nonblocking(true).unwrap();
    stack.run(&["up", "-d"]).ok();
    let mut buffer = [0; 4096];
    let got = messages(|| {
        let count = receiver.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..count]).trim_end().replace('\n', " "))
    });
    let id = stack.container("speaker")["ID"].as_str().unwrap().to_owned();
    let fields = [
        format!("CONTAINER_ID={}", &id[..12]),
        format!("CONTAINER_NAME={}-speaker-1", stack.project),
        "CONTAINER_TAG=me".to_owned(),
        "SYSLOG_IDENTIFIER=me".to_owned(),
        "IMAGE_NAME=busybox".to_owned(),
        "E1=v1".to_owned(),
        "L1=x".to_owned(),
    ];
    for message in &got {
        let words: Vec<&str> = message.split(' ').collect();
        assert!(fields.iter().all(|field| words.contains(&field.as_str())), "{message}");
        let text = words.last().unwrap();
        let priority = if *text == "MESSAGE=err" { "PRIORITY=3" } else { "PRIORITY=6" };
        assert!(words.contains(&priority), "{message}");
        assert_eq!(words.contains(&"CONTAINER_PARTIAL_MESSAGE=true"), *text == "MESSAGE=part", "{message}");
    }
    assert_eq!(logs(&stack), ["", "err", "out", "part"]);
    stack.finish();
}

#[test]
fn entries_of_the_log_have_the_labels_and_variables_that_were_asked_for() {
    let options = "{driver: json-file, options: {tag: '{{.Name}}', labels: 'l1,none', env-regex: '^E'}}";
    let stack = stack("attributes", options);
    stack.run(&["up", "-d"]).ok();
    stack.wait_for("speaker", &json!({"State": "exited"}));
    let path = stack.run(&["inspect", "speaker", "--format", "{{.LogPath}}"]).ok().stdout;
    let log = fs::read_to_string(path.trim()).unwrap();
    let want = json!({"E1": "v1", "l1": "x", "tag": format!("{}-speaker-1", stack.project)});
    for line in log.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(entry["attrs"], want);
    }
    assert_eq!(log.lines().count(), 4);
    assert_eq!(logs(&stack), ["", "err", "out", "part"]);
    stack.finish();
}

#[test]
fn without_a_log_whoever_attaches_sees_what_is_written() {
    let stack = Stack::new("nolog");
    let command = "[sh, -c, 'while ! test -e /go; do sleep 0.05; done; echo live; echo error >&2; exit 3']";
    stack.write(
        "compose.yaml",
        &format!("services:\n  web: {{image: busybox, command: {command}, logging: {{driver: none}}}}\n"),
    );
    stack.run(&["up", "-d"]).ok();
    let attached = stack.spawn(&["attach", "--no-stdin", "web"]);
    wait::until(wait::PATIENCE, "somebody to be attached", || {
        let events = stack.run(&["events", "--json", "--since", "10m", "--until", "0s"]).ok();
        if events.stdout.contains("\"attach\"") { Ok(()) } else { Err(format!("{events:?}")) }
    });
    stack.run(&["exec", "-T", "web", "touch", "/go"]).ok();
    let output = attached.wait();
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (3, "live\n", "error\n"));
    stack.finish();
}
