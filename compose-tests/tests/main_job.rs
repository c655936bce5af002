//! The main job: the examples, as a newcomer runs them.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    thread,
};

use compose_tests::{
    http,
    stack::{self, Stack},
    wait,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

#[test]
fn hello_needs_no_registry() {
    let mut stack = Stack::on_host("hello");
    stack.stop_registry();
    stack.copy_example("hello");
    stack.set("PORT", &stack.fill("{PORT1}"));
    stack.run(&["up", "-d"]).ok();
    assert_eq!(stack.container("backend")["Health"], "healthy");
    assert_eq!(stack.get("web", 80, "/health").status, 200);
    let address = stack.published("web", 80);
    let answer = http::request(address, "GET", "/", &[("X-Asked", "yes")], None, wait::PATIENCE).expect("an answer");
    assert!(answer.text().to_lowercase().contains("x-asked: yes"), "no header in {}", answer.text());

    stack.run(&["up", "-d", "--scale", "backend=3"]).ok();
    assert_eq!(stack.containers().len(), 4);
    let mut seen = BTreeSet::new();
    wait::until(wait::PATIENCE, "answers of three backends", || {
        let answer = stack.get("web", 80, "/peer/backend");
        assert_eq!(answer.status, 200, "{}", answer.text());
        // The host's name is the only line that tells the three apart for certain.
        seen.insert(answer.text().lines().find(|line| line.to_lowercase().contains("host")).map(str::to_owned));
        if seen.len() >= 3 { Ok(()) } else { Err(seen.clone()) }
    });
    assert_ne!(stack.get("web", 80, "/peer/nosuchname").status, 200);
    stack.finish();
}

/// Signs the guestbook and returns all its messages.
fn sign(stack: &Stack, text: &str) -> Vec<Value> {
    let address = stack.published("web", 80);
    let body = json!({"author": "test", "text": text}).to_string();
    wait::until(wait::PATIENCE, &format!("the message {text:?} to be taken"), || {
        match http::post(address, "/api/messages", "application/json", &body) {
            Ok(answer) if answer.status == 201 => Ok(()),
            Ok(answer) => Err(format!("{} {}", answer.status, answer.text())),
            Err(error) => Err(format!("{error:#}")),
        }
    });
    serde_json::from_slice(&http::get(address, "/api/messages").expect("an answer").body).expect("a list of messages")
}

fn texts(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|message| message["text"].as_str().expect("a message has a text")).collect()
}

#[test]
fn guestbook_survives_what_can_be_killed() {
    let mut stack = Stack::new("guestbook");
    stack.copy_example("guestbook");
    stack.set("WEB_PORT", &stack.fill("{PORT1}"));
    stack.run(&["up", "-d"]).ok();
    for service in ["db", "cache", "api"] {
        assert_eq!(stack.container(service)["Health"], "healthy", "{service}");
    }
    assert!(stack.get("web", 80, "/").text().contains("<title>Guestbook</title>"));
    assert_eq!(texts(&sign(&stack, "first")), ["first"]);
    let visits = |stack: &Stack| stack.get("web", 80, "/api/visits").text();
    assert!(visits(&stack).contains("\"visits\":1"), "{}", visits(&stack));

    let before = stack.containers();
    let supervisor = stack.supervisor();
    supervisor.signal(Signal::SIGKILL);
    assert_eq!(texts(&sign(&stack, "second")), ["second", "first"]);
    for service in ["db", "web", "api"] {
        stack.shim(service).signal(Signal::SIGKILL);
    }
    assert_eq!(texts(&sign(&stack, "third")), ["third", "second", "first"]);
    let after = stack.containers();
    let ids = |containers: &[Value]| containers.iter().map(|c| c["ID"].to_string()).collect::<BTreeSet<_>>();
    assert_eq!(ids(&before), ids(&after), "containers were replaced");
    assert_ne!(stack.supervisor().pid, supervisor.pid);

    // The data outlives the containers.
    stack.run(&["down"]).ok();
    stack.run(&["up", "-d"]).ok();
    assert_eq!(texts(&sign(&stack, "fourth")), ["fourth", "third", "second", "first"]);
    let log = stack.run(&["logs", "db"]).ok();
    assert!(log.stdout.contains("Skipping initialization"), "{log:?}");
    stack.finish();
}

#[test]
fn a_scaled_web_is_replaced_while_it_answers() {
    let mut stack = Stack::new("scaled");
    stack.copy_example("scaled");
    stack.set("WEB_PORT", &stack.fill("{PORT1}"));
    stack.run(&["up", "-d", "--wait"]).ok();
    let proxy = stack.published("proxy", 80);
    let ask = || {
        let answer = http::get(proxy, "/").map_err(|error| format!("{error:#}"))?;
        if answer.status == 200 { Ok(answer.text()) } else { Err(format!("{} {}", answer.status, answer.text())) }
    };
    let answers_of = |count: usize, what: &str| {
        let mut seen = BTreeSet::new();
        wait::until(wait::PATIENCE, what, || {
            seen.insert(ask()?);
            if seen.len() == count { Ok(()) } else { Err(format!("{seen:?}")) }
        });
    };
    answers_of(3, "answers of three containers");

    stack.set("VERSION", "2");
    let update = stack.spawn(&["up", "-d"]);
    let mut answers = Vec::new();
    let output = thread::scope(|scope| {
        let ended = scope.spawn(|| update.wait());
        while !ended.is_finished() {
            answers.push(ask());
        }
        ended.join().expect("waiting does not panic").ok()
    });
    let lost: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert!(lost.is_empty(), "of {} requests: {lost:#?} during {output:?}", answers.len());
    wait::until(wait::PATIENCE, "the new version alone", || {
        let answers: Vec<_> = (0..6).map(|_| ask()).collect();
        let new = |answer: &Result<String, _>| answer.as_ref().is_ok_and(|text| text.ends_with(", version 2\n"));
        if answers.iter().all(new) { Ok(()) } else { Err(answers) }
    });
    stack.run(&["up", "-d", "--wait", "--scale", "web=5"]).ok();
    answers_of(5, "answers of five containers");
    stack.finish();
}

#[test]
fn tests_run_beside_a_stack_of_their_own() {
    let mut stack = Stack::new("ci");
    for name in ["ci", "guestbook"] {
        stack.copy_to(&stack::repository().join("examples").join(name), name);
    }
    stack.be_installed();
    let workflow = fs::read_to_string(stack.project_folder().join("ci/workflow.yaml")).expect("there is a workflow");
    assert!(workflow.contains("run: sudo examples/ci/run\n"), "{workflow}");
    let run = stack.shell("ci/run").ok();
    assert!(run.stderr.contains("Ran 3 tests") || run.stdout.contains("Ran 3 tests"), "{run:?}");
    stack.assert_nothing_left(&BTreeSet::new());
    let report = |name: &str| fs::read_to_string(stack.project_folder().join("ci/report").join(name)).unwrap();
    assert!(report("stack.xml").contains("tests=\"5\" failures=\"0\""), "{}", report("stack.xml"));
    assert!(report("events.json").contains("\"health_status: healthy\""), "{}", report("events.json"));
    assert!(report("logs/web-1.log").contains("POST /api/messages"), "{}", report("logs/web-1.log"));
    stack.finish();
}

/// Another machine on the network of the host: a process in a network namespace that is linked to the calling thread's.
struct Neighbour {
    holder: Child,
}

impl Neighbour {
    /// The host gets 192.0.2.1, the neighbour 192.0.2.2.
    fn new() -> Neighbour {
        let holder = Command::new("unshare")
            .args(["--net", "sleep", "1000"])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare runs");
        let neighbour = Neighbour { holder };
        let own = std::fs::read_link("/proc/thread-self/ns/net").expect("a thread has a network namespace");
        wait::until(wait::PATIENCE, "the neighbour's namespace", || {
            let other = std::fs::read_link(neighbour.namespace()).map_err(|error| error.to_string())?;
            if other == own { Err(other.display().to_string()) } else { Ok(()) }
        });
        let pid = neighbour.holder.id().to_string();
        let enter = format!("--net=/proc/{pid}/ns/net");
        for line in [
            format!("ip link add lan0 type veth peer name eth0 netns {pid}"),
            "ip address add 192.0.2.1/24 dev lan0".to_owned(),
            "ip link set lan0 up".to_owned(),
            format!("nsenter {enter} ip address add 192.0.2.2/24 dev eth0"),
            format!("nsenter {enter} ip link set eth0 up"),
            // Such a neighbour knows where our private networks are, as a router on the same link may.
            format!("nsenter {enter} ip route add default via 192.0.2.1"),
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            let status = Command::new(words[0]).args(&words[1..]).status().expect("iproute2 is installed");
            assert!(status.success(), "{line}");
        }
        neighbour
    }

    fn namespace(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// Asks an address of the host, as that machine would.
    fn get(&self, address: SocketAddr) -> Result<String, String> {
        let namespace = File::open(self.namespace()).expect("the neighbour lives");
        thread::scope(|scope| {
            scope
                .spawn(move || {
                    nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("root may enter");
                    http::request(address, "GET", "/", &[], None, std::time::Duration::from_secs(2))
                        .map(|answer| answer.text())
                        .map_err(|error| format!("{error:#}"))
                })
                .join()
                .expect("asking does not panic")
        })
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.holder.kill().expect("the neighbour's holder can be killed");
        self.holder.wait().expect("the neighbour's holder can be waited for");
    }
}

fn nft(arguments: &[&str]) -> String {
    let output = Command::new("nft").args(arguments).output().expect("nftables is installed");
    assert!(output.status.success(), "nft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Docker sets the policy of FORWARD to DROP and puts its own chains in front.
#[test]
fn a_firewall_like_dockers_does_no_harm_and_takes_none() {
    let stack = Stack::new("firewall");
    let neighbour = Neighbour::new();
    nft(&["add", "table", "ip", "filter"]);
    nft(&["add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }"]);
    nft(&["add", "chain", "ip", "filter", "DOCKER-USER"]);
    nft(&["add", "rule", "ip", "filter", "FORWARD", "counter", "jump", "DOCKER-USER"]);
    let before = nft(&["--stateless", "list", "table", "ip", "filter"]);
    let answer = "while :; do printf \"HTTP/1.0 200 OK\\r\\n\\r\\nhello\\n\" | nc -l -p 80 >/dev/null; done";
    stack.write(
        "compose.yaml",
        &stack.fill(&format!(
            "services:\n  open:\n    image: busybox\n    command: [sh, -c, '{answer}']\n    ports: ['{{PORT1}}:80']\n  \
             local:\n    image: busybox\n    command: [sh, -c, '{answer}']\n    ports: ['127.0.0.1:{{PORT2}}:80']\n  \
             asker:\n    image: busybox\n    command: sleep 1000\n"
        )),
    );
    stack.run(&["up", "-d"]).ok();
    assert!(stack.get("open", 80, "/").text().contains("hello"));
    assert!(stack.get("local", 80, "/").text().contains("hello"));
    // Container to container, and out to the neighbour.
    stack.run(&["exec", "-T", "asker", "wget", "-qO-", "http://open/"]).ok();
    stack.run(&["exec", "-T", "asker", "ping", "-c1", "-w5", "192.0.2.2"]).ok();

    let host = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let open = stack.published("open", 80).port();
    let local = stack.published("local", 80).port();
    wait::until(wait::PATIENCE, "an answer to the neighbour", || match neighbour.get(SocketAddr::new(host, open)) {
        Ok(text) if text.contains("hello") => Ok(()),
        other => Err(other),
    });
    assert!(neighbour.get(SocketAddr::new(host, local)).is_err(), "a loopback port answers the neighbour");
    // An address of a container, without a published port.
    let inside = stack.run(&["exec", "-T", "open", "hostname", "-i"]).ok();
    let inside: IpAddr = inside.text().parse().expect("hostname -i prints an address");
    let unpublished = neighbour.get(SocketAddr::new(inside, 80));
    assert!(unpublished.is_err(), "port 80 of a container answers the neighbour, though it is published as {open}");

    let containers = compose_tests::census::container_ids(&stack.root());
    stack.run(&["down", "-v", "-t", "0"]).ok();
    assert_eq!(nft(&["--stateless", "list", "table", "ip", "filter"]), before, "the host's rules were changed");
    nft(&["delete", "table", "ip", "filter"]);
    drop(neighbour);
    stack.finish_without_down(&containers);
}

/// What a user does in the first minute with mistakes: nothing of it may leave traces.
#[test]
fn up_that_is_interrupted_can_be_repeated() {
    let stack = Stack::new("interrupted");
    let service = |name| format!("  {name}: {{image: 'debian:bookworm-slim', command: sleep 1000}}\n");
    stack.write(
        "compose.yaml",
        &format!("services:\n{}", ["a", "b", "c", "d", "e", "f", "g", "h"].map(service).concat()),
    );
    for (signal, pause) in
        [(Signal::SIGINT, 30), (Signal::SIGKILL, 300), (Signal::SIGTERM, 900), (Signal::SIGKILL, 1500)]
    {
        let running = stack.spawn(&["up", "-d"]);
        thread::sleep(std::time::Duration::from_millis(pause));
        // It may have been faster than the signal: a child that was not waited for yet can still be signalled.
        running.signal(signal);
        running.wait();
    }
    stack.run(&["up", "-d"]).ok();
    let running = stack.containers();
    assert_eq!(running.len(), 8, "{running:#?}");
    assert!(running.iter().all(|container| container["State"] == "running"), "{running:#?}");
    stack.finish();
}

#[test]
fn version_needs_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(stack::binary());
    command.arg("version").current_dir(folder.path()).env_clear();
    let output = stack::finish(command, "").ok();
    assert!(output.stdout.contains(env!("CARGO_PKG_VERSION")), "{output:?}");
}
