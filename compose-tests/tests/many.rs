//! Many projects at once on one host: a few in CI, five hundred by `compose-tests/soak`.

use std::{collections::BTreeSet, thread};

use compose_tests::{census, http, stack::Stack, wait};

/// Two services, of which one knows the other by its name, and a port.
const PROJECT: &str = "services:
  web:
    image: busybox
    command: [sh, -c, 'while :; do printf \"HTTP/1.0 200 OK\\r\\n\\r\\n$$NAME\" | nc -l -p 80 >/dev/null; done']
    environment: {NAME: '${COMPOSE_PROJECT_NAME}'}
    ports: ['127.0.0.1::80']
    stop_grace_period: 0s
  beside: {image: busybox, command: sleep 1000, stop_grace_period: 0s}
";

/// How many projects there are; another number by `RCOMPOSE_TEST_PROJECTS`.
fn projects() -> usize {
    let text = std::env::var("RCOMPOSE_TEST_PROJECTS");
    text.map_or(12, |count| count.parse().expect("RCOMPOSE_TEST_PROJECTS is a number"))
}

/// Does something for every project, for two at a time. Threads have the network of who starts them.
fn for_each(names: &[String], act: impl Fn(&str) + Sync) {
    thread::scope(|scope| {
        for half in names.chunks(names.len().div_ceil(2)) {
            let act = &act;
            scope.spawn(move || half.iter().for_each(|name| act(name)));
        }
    });
}

#[test]
fn projects_on_one_host_do_not_meet() {
    let stack = Stack::new("many");
    stack.write("compose.yaml", PROJECT);
    let names: Vec<String> = (0..projects()).map(|number| format!("{}n{number}", stack.project)).collect();
    // The image is fetched once.
    stack.run(&["pull", "-q"]).ok();
    for_each(&names, |name| drop(stack.run(&["-p", name, "up", "-d"]).ok()));

    let of = |name: &str, arguments: &[&str]| stack.run(&[&["-p", name], arguments].concat()).ok().text().to_owned();
    let addresses: Vec<String> = names
        .iter()
        .map(|name| of(name, &["inspect", "-f", "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}", "web"]))
        .collect();
    assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), names.len(), "each has a network: {addresses:?}");
    for_each(&names, |name| {
        let published = of(name, &["port", "web", "80"]);
        let address = published.parse().expect("an address and a port");
        let body = wait::until(wait::PATIENCE, "an answer", || http::get(address, "/")).text();
        assert_eq!(body, name, "each port leads to its own project");
        // The name stands for the container of this project.
        let own = of(name, &["inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "web"]);
        let asked = of(name, &["exec", "-T", "beside", "sh", "-c", "ping -c 1 -w 5 web | head -1"]);
        assert!(asked.contains(&format!("({own})")), "{asked}, not {own}");
    });

    let containers = census::container_ids(&stack.root());
    assert_eq!(containers.len(), 2 * names.len());
    for_each(&names, |name| drop(of(name, &["down", "-t", "0"])));
    stack.finish_without_down(&containers);
}
