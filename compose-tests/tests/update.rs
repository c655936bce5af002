//! `deploy.update_config`: the containers of a service are replaced while it goes on.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use compose_tests::{http, stack::Stack, wait};
use nix::sys::signal::Signal;
use serde_json::Value;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Something that asks a service again and again, and notes who answered and what was lost.
struct Load {
    name: &'static str,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: thread::JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    answers: u64,
    /// The host names of those who answered.
    hosts: BTreeSet<String>,
    /// Who answered last.
    last: String,
    lost: Vec<String>,
}

impl Load {
    /// Asks by `ask`, which answers with what the service told, until the end.
    fn start(name: &'static str, mut ask: impl FnMut() -> anyhow::Result<String> + Send + 'static) -> Load {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let (stopped, noted) = (Arc::clone(&stop), Arc::clone(&seen));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let answer = ask().and_then(|text| {
                    let host = text.lines().find_map(|line| line.strip_prefix("Hostname: "));
                    host.map(str::to_owned).ok_or_else(|| anyhow::anyhow!("no host name in {text:?}"))
                });
                let mut seen = noted.lock().expect("no holder panics");
                match answer {
                    Ok(host) => {
                        seen.answers += 1;
                        seen.hosts.insert(host.clone());
                        seen.last = host;
                    }
                    Err(error) => seen.lost.push(format!("{error:#}")),
                }
            }
        });
        Load { name, stop, seen, thread }
    }

    /// Waits until this host answers.
    fn wait_for(&self, host: &str) {
        wait::until(wait::PATIENCE, &format!("an answer of {host} to {}", self.name), || {
            let seen = self.seen.lock().expect("no holder panics");
            if seen.last == host { Ok(()) } else { Err(format!("{seen:?}")) }
        });
    }

    /// Ends it; nothing may have been lost.
    fn finish(self, hosts: &[&str]) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("asking does not panic");
        let seen = self.seen.lock().expect("no holder panics");
        assert!(
            seen.lost.is_empty(),
            "{} of {} requests {} were lost: {:#?}",
            seen.lost.len(),
            seen.answers,
            self.name,
            seen.lost
        );
        assert_eq!(seen.hosts, hosts.iter().map(|host| (*host).to_owned()).collect(), "{}", self.name);
    }
}

/// A client that asks many times on one connection, and then makes another one.
struct KeepAlive {
    address: SocketAddr,
    connection: Option<(BufReader<TcpStream>, u32)>,
}

impl KeepAlive {
    /// Requests on one connection.
    const MOST: u32 = 25;

    fn ask(&mut self) -> anyhow::Result<String> {
        let (mut reader, count) = if let Some(connection) = self.connection.take() {
            connection
        } else {
            let stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
            (BufReader::new(stream), 0)
        };
        reader.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            anyhow::ensure!(reader.read_line(&mut line)? > 0, "the connection ended before the answer, after {count}");
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse()?;
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        if count + 1 < Self::MOST {
            self.connection = Some((reader, count + 1));
        }
        Ok(String::from_utf8(body)?)
    }
}

/// Returns the ids of a service's containers, by name.
fn ids(stack: &Stack, service: &str) -> Vec<(String, String)> {
    let own = stack.containers().into_iter().filter(|container| container["Service"] == service);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    own.map(|container| (text(&container["Name"]), text(&container["ID"])[..12].to_owned())).collect()
}

fn web(version: u32) -> String {
    format!(
        "services:
  web:
    image: rcompose.local/whoami
    ports: ['127.0.0.1:18080:80', '80']
    environment: {{VERSION: '{version}'}}
    healthcheck: {{test: [CMD, /whoami, --health], interval: 1h}}
    deploy: {{replicas: 1, update_config: {{order: start-first}}}}
  peer:
    image: rcompose.local/whoami
    ports: ['127.0.0.1:18081:80']
"
    )
}

#[test]
fn no_request_is_lost_while_a_container_is_replaced() {
    let stack = Stack::new("seamless");
    stack.write("compose.yaml", &web(1));
    stack.run(&["up", "-d", "--wait"]).ok();
    let [(name, first)] = &ids(&stack, "web")[..] else { panic!("one container") };
    let [published, peer] = [18080, 18081].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let chosen = stack.run(&["port", "web", "80"]).ok();
    let by_name = format!("/peer/{name}");
    let mut keep_alive = KeepAlive { address: published, connection: None };
    let ask = |address: SocketAddr, path: String| {
        move || {
            let response = http::request(address, "GET", &path, &[], None, PATIENCE)?;
            anyhow::ensure!(response.status == 200, "{}: {}", response.status, response.text());
            Ok(response.text())
        }
    };
    let loads = [
        Load::start("of new connections", ask(published, "/".to_owned())),
        Load::start("of kept connections", move || keep_alive.ask()),
        Load::start("by the service's name", ask(peer, "/peer/web".to_owned())),
        Load::start("by the container's name", ask(peer, by_name)),
    ];
    for load in &loads {
        load.wait_for(first);
    }
    stack.write("compose.yaml", &web(2));
    let plan = stack.run(&["plan"]).ok();
    assert!(plan.stdout.contains("~ update service web: its definition is another one"), "{plan:?}");
    assert!(plan.stdout.contains("services.web.environment.VERSION: \"1\" → \"2\""), "{plan:?}");
    assert!(plan.stdout.contains(&format!("started beside the old one, which stops when it has taken over: {name}")));
    assert!(!plan.stdout.contains("it does not run meanwhile"), "{plan:?}");
    stack.run(&["up", "-d"]).ok();
    let [(now, second)] = &ids(&stack, "web")[..] else { panic!("one container") };
    assert_eq!((now, first == second), (name, false));
    for load in &loads {
        load.wait_for(second);
    }
    for load in loads {
        load.finish(&[first, second]);
    }
    // A port of the kernel's choice stays the same one.
    assert_eq!(stack.run(&["port", "web", "80"]).ok().stdout, chosen.stdout);
    assert!(stack.run(&["plan"]).ok().stdout.contains("nothing to do"));
    stack.finish();
}

#[test]
fn attached_up_replaces_the_same_way() {
    let stack = Stack::new("attached-seamless");
    stack.write("compose.yaml", &web(1));
    stack.run(&["up", "-d", "--wait"]).ok();
    let [(_, first)] = &ids(&stack, "web")[..] else { panic!("one container") };
    let address = SocketAddr::from(([127, 0, 0, 1], 18080));
    let load = Load::start("of new connections", move || Ok(http::get(address, "/")?.text()));
    load.wait_for(first);
    stack.write("compose.yaml", &web(2));
    let up = stack.spawn(&["up"]);
    let second = wait::until(wait::PATIENCE, "another container", || match &ids(&stack, "web")[..] {
        [(_, id)] if id != first => Ok(id.clone()),
        other => Err(format!("{other:?}")),
    });
    load.wait_for(&second);
    load.finish(&[first, &second]);
    up.signal(Signal::SIGINT);
    assert_eq!(up.wait().code, 130);
    stack.finish();
}

/// A service whose containers do what `script` says, and which is updated as `deploy` says. A container is healthy once there is
/// /dev/shm/up, of which each of its runs has its own.
fn service(count: u32, script: &str, deploy: &str) -> String {
    format!(
        "services:
  web:
    image: busybox
    command: [sh, -c, '{script}']
    volumes: ['shared:/shared']
    healthcheck: {{test: test -e /dev/shm/up, interval: 100ms, retries: 2, start_period: 1h}}
    stop_grace_period: 1m
    deploy: {{replicas: {count}, {deploy}}}
volumes: {{shared: }}
"
    )
}

fn replicas(count: u32, script: &str, update: &str) -> String {
    service(count, script, &format!("update_config: {update}"))
}

const UP: &str = "touch /dev/shm/up; exec sleep 1000";
/// Only the first container that does this comes up.
const ONE_FAILS: &str = "mkdir /shared/one && touch /dev/shm/up && exec sleep 1000; exit 7";

/// Returns what the containers of a service wrote to `/shared/log`.
fn log(stack: &Stack) -> Vec<String> {
    let log = stack.run(&["exec", "-T", "web", "cat", "/shared/log"]).ok().stdout;
    log.lines().map(str::to_owned).collect()
}

#[test]
fn what_fails_is_rolled_back() {
    let stack = Stack::new("rolled-back");
    for order in ["start-first", "stop-first"] {
        let update = format!("{{order: {order}, failure_action: rollback}}");
        stack.write("compose.yaml", &replicas(3, UP, &update));
        stack.run(&["up", "-d", "--wait"]).ok();
        let before = ids(&stack, "web");
        assert_eq!(before.len(), 3);
        stack.write("compose.yaml", &replicas(3, ONE_FAILS, &update));
        let output = stack.run(&["up", "-d"]);
        assert_eq!(output.code, 1, "{output:?}");
        assert!(output.stderr.contains("the update of service \"web\" failed and was rolled back"), "{output:?}");
        assert!(output.stderr.contains("exited (7)"), "{output:?}");
        assert_eq!(ids(&stack, "web"), before, "{order}");
        assert!(stack.containers().iter().all(|container| container["Health"] == "healthy"), "{order}");
        stack.run(&["down", "-v", "-t", "0"]).ok();
    }
    stack.finish();
}

#[test]
fn what_fails_may_be_left_as_it_is() {
    let stack = Stack::new("paused");
    for (action, replaced, code) in [("pause", 1, 1), ("continue", 1, 0), ("rollback, max_failure_ratio: 0.7", 1, 0)] {
        let update = format!("{{order: start-first, failure_action: {action}}}");
        stack.write("compose.yaml", &replicas(3, UP, &update));
        stack.run(&["up", "-d", "--wait"]).ok();
        let before = ids(&stack, "web");
        stack.write("compose.yaml", &replicas(3, ONE_FAILS, &update));
        let output = stack.run(&["up", "-d"]);
        assert_eq!(output.code, code, "{action}: {output:?}");
        let after = ids(&stack, "web");
        assert_eq!(
            after.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            before.iter().map(|(name, _)| name).collect::<Vec<_>>()
        );
        assert_eq!(after.iter().filter(|found| !before.contains(found)).count(), replaced, "{action}: {output:?}");
        if code == 0 {
            assert_eq!(output.stderr.matches("Skipped: ").count(), 2, "{action}: {output:?}");
        } else {
            assert!(output.stderr.contains("failed and went no further"), "{output:?}");
        }
        stack.run(&["down", "-v", "-t", "0"]).ok();
    }
    stack.finish();
}

#[test]
fn what_becomes_unhealthy_while_it_is_watched_gives_its_place_back() {
    let stack = Stack::new("watched");
    let update = "{order: start-first, failure_action: rollback, monitor: 1h}";
    stack.write("compose.yaml", &replicas(1, UP, update));
    stack.run(&["up", "-d", "--wait"]).ok();
    let before = ids(&stack, "web");
    // The start period ends with the first success.
    stack.write(
        "compose.yaml",
        &replicas(
            1,
            "touch /dev/shm/up; while [ ! -e /shared/down ]; do sleep 0.1; done; rm /dev/shm/up; exec sleep 1000",
            update,
        ),
    );
    let up = stack.spawn(&["up", "-d"]);
    let new = wait::until(wait::PATIENCE, "a container that took over", || {
        let new = stack.containers().into_iter().find(|container| {
            before.iter().all(|(name, _)| container["Name"] != **name) && container["Health"] == "healthy"
        });
        new.ok_or("none")
    });
    assert_eq!(new["Service"], "web");
    stack.run(&["exec", "-T", "web", "touch", "/shared/down"]).ok();
    let output = up.wait();
    assert_eq!(output.code, 1, "{output:?}");
    assert!(
        output.stderr.contains("failed and was rolled back") && output.stderr.contains("is unhealthy"),
        "{output:?}"
    );
    assert_eq!(ids(&stack, "web"), before);
    stack.finish();
}

#[test]
fn an_update_that_was_cut_short_is_begun_anew() {
    let stack = Stack::new("cut-short");
    let update = "{order: start-first}";
    stack.write("compose.yaml", &replicas(2, UP, update));
    stack.run(&["up", "-d", "--wait"]).ok();
    let before = ids(&stack, "web");
    stack.write(
        "compose.yaml",
        &replicas(2, "while [ ! -e /shared/go ]; do sleep 0.1; done; touch /dev/shm/up; exec sleep 1000", update),
    );
    let running = |count: usize| {
        wait::until(wait::PATIENCE, "a container beside the old ones", || {
            let running = stack.containers().iter().filter(|container| container["State"] == "running").count();
            if running == count { Ok(()) } else { Err(running) }
        });
    };
    let up = stack.spawn(&["up", "-d"]);
    running(3);
    up.signal(Signal::SIGKILL);
    up.wait();
    stack.supervisor().signal(Signal::SIGKILL);
    stack.run(&["exec", "-T", "web", "touch", "/shared/go"]).ok();
    stack.run(&["up", "-d"]).ok();
    let after = ids(&stack, "web");
    let names = |all: &[(String, String)]| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&after), names(&before));
    assert!(after.iter().all(|found| !before.contains(found)), "{after:?}");
    assert!(stack.run(&["plan"]).ok().stdout.contains("nothing to do"));
    stack.finish();
}

#[test]
fn as_many_are_replaced_at_a_time_as_parallelism_says() {
    let stack = Stack::new("parallel");
    let update = "{parallelism: 2}";
    let old = "trap \"echo ended >>/shared/log; exit\" TERM; touch /dev/shm/up; while :; do sleep 0.1; done";
    stack.write("compose.yaml", &replicas(4, old, update));
    stack.run(&["up", "-d", "--wait"]).ok();
    // Each waits for one that began with it: alone, or as one of three, it never gets ready.
    let new = "echo began >>/shared/log; while n=$$(grep -c began /shared/log); [ $$((n % 2)) = 1 ]; do sleep 0.1; done; \
               echo ready >>/shared/log; touch /dev/shm/up; exec sleep 1000";
    stack.write("compose.yaml", &replicas(4, new, update));
    stack.run(&["up", "-d"]).ok();
    let log = log(&stack);
    let [first, second] = [&log[..6], &log[6..]].map(|half| {
        let count = |word: &str| half.iter().filter(|line| *line == word).count();
        [count("ended"), count("began"), count("ready")]
    });
    assert_eq!([first, second], [[2, 2, 2]; 2], "{log:?}");
    stack.finish();
}

#[test]
fn a_delay_lies_between_replacements() {
    let stack = Stack::new("delayed");
    stack.write("compose.yaml", &replicas(2, UP, "{delay: 1h}"));
    stack.run(&["up", "-d", "--wait"]).ok();
    let before = ids(&stack, "web");
    let new = "touch /dev/shm/up; exec sleep 1001";
    stack.write("compose.yaml", &replicas(2, new, "{delay: 1h}"));
    let up = stack.spawn(&["up", "-d"]);
    wait::until(wait::PATIENCE, "a container in another's place", || {
        let new = stack.containers().into_iter().find(|container| {
            before.iter().all(|(_, id)| container["ID"].as_str().is_some_and(|other| !other.starts_with(id)))
                && container["Health"] == "healthy"
        });
        new.ok_or("none")
    });
    // It waits, and can be interrupted in that.
    up.signal(Signal::SIGINT);
    assert_eq!(up.wait().code, 130);
    let running = || stack.containers().into_iter().filter(|container| container["State"] == "running").count();
    assert_eq!(running(), 2);
    // The next one goes on from there.
    stack.write("compose.yaml", &replicas(2, new, "{delay: 2s}"));
    stack.run(&["up", "-d"]).ok();
    let after = ids(&stack, "web");
    assert_eq!(after.len(), 2);
    assert!(after.iter().all(|found| !before.contains(found)), "{after:?}");
    // Each starts so long after the one before.
    let told = format!("date +%s >>/shared/log; {UP}");
    stack.write("compose.yaml", &replicas(2, &told, "{delay: 2s}"));
    stack.run(&["up", "-d"]).ok();
    let started: Vec<u64> = log(&stack).iter().map(|time| time.parse().expect("a time in seconds")).collect();
    assert!(started.len() == 2 && started[1] - started[0] >= 2, "{started:?}");
    stack.finish();
}

#[test]
fn what_fails_is_brought_back_as_rollback_config_says() {
    let stack = Stack::new("back");
    // One at a time beside the old ones, and back together, each when the one in its place has stopped.
    let deploy = "update_config: {order: start-first, failure_action: rollback}, \
                  rollback_config: {order: stop-first, parallelism: 2}";
    let old = "if [ -e /shared/new ]; then echo again >>/shared/log; while n=$$(grep -c again /shared/log); \
               [ $$((n % 2)) = 1 ]; do sleep 0.1; done; fi; touch /dev/shm/up; exec sleep 1000";
    stack.write("compose.yaml", &service(3, old, deploy));
    stack.run(&["up", "-d", "--wait"]).ok();
    let before = ids(&stack, "web");
    let new = "touch /shared/new; mkdir /shared/a || mkdir /shared/b || exit 7; \
               trap \"echo gone >>/shared/log; exit\" TERM; touch /dev/shm/up; while :; do sleep 0.1; done";
    stack.write("compose.yaml", &service(3, new, deploy));
    let output = stack.run(&["up", "-d"]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("the update of service \"web\" failed and was rolled back"), "{output:?}");
    assert_eq!(ids(&stack, "web"), before);
    let log = log(&stack);
    assert_eq!(log.len(), 4, "{log:?}");
    for end in 0..=log.len() {
        let count = |word: &str| log[..end].iter().filter(|line| *line == word).count();
        assert!(count("again") <= count("gone"), "{log:?}");
    }
    stack.finish();
}

#[test]
fn what_cannot_be_brought_back_stays_replaced() {
    let stack = Stack::new("half-back");
    for (action, kept) in [("pause", 2), ("continue", 1)] {
        let deploy = format!(
            "update_config: {{order: start-first, failure_action: rollback}}, rollback_config: {{failure_action: {action}}}"
        );
        // The first that comes back fails.
        let old = "[ ! -e /shared/new ] || ! mkdir /shared/back || exit 9; touch /dev/shm/up; exec sleep 1000";
        stack.write("compose.yaml", &service(3, old, &deploy));
        stack.run(&["up", "-d", "--wait"]).ok();
        let before = ids(&stack, "web");
        let new = "touch /shared/new; [ -e /known ] || mkdir /shared/a || mkdir /shared/b || exit 7; \
                   touch /known /dev/shm/up; exec sleep 1000";
        stack.write("compose.yaml", &service(3, new, &deploy));
        let output = stack.run(&["up", "-d"]);
        assert_eq!(output.code, 1, "{output:?}");
        assert!(output.stderr.contains("failed and could not be rolled back as a whole"), "{output:?}");
        assert!(output.stderr.contains("exited (7)"), "{output:?}");
        let after = ids(&stack, "web");
        let names = |all: &[(String, String)]| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&after), names(&before));
        assert_eq!(after.iter().filter(|found| !before.contains(found)).count(), kept, "{action}: {output:?}");
        // What was started again in its old place is not waited for.
        wait::until(wait::PATIENCE, "healthy containers", || {
            let all = stack.containers();
            if all.iter().all(|container| container["Health"] == "healthy") { Ok(()) } else { Err(all) }
        });
        stack.run(&["down", "-v", "-t", "0"]).ok();
    }
    stack.finish();
}
