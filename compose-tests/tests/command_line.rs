//! What helps at the command line: completion in real shells, manual pages, and Docker Compose's name.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use compose_tests::{
    stack,
    stack::{Stack, finish},
    terminal::Terminal,
};

const SERVICES: &str = "services:
  web: {image: busybox, command: sleep 1000, init: true, stop_grace_period: 0s}
  worker: {image: busybox, command: sleep 1000}
  console: {image: busybox, command: sleep 1000, profiles: [debug]}
";

fn stack(name: &str) -> Stack {
    let stack = Stack::new(name);
    stack.write("compose.yaml", SERVICES);
    stack.run(&["up", "-d", "web"]).ok();
    stack
}

/// Returns a program in the folder and the environment of a stack; `$PROGRAM` is the binary under test.
fn command(stack: &Stack, program: &Path, arguments: &[&str]) -> Command {
    let template = stack.command::<&str>(&[]);
    let mut command = Command::new(program);
    command.args(arguments).current_dir(stack.project_folder()).env_clear();
    command.envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("PROGRAM", stack::binary());
    command
}

/// Runs a shell's script and returns what it prints.
fn run(stack: &Stack, shell: &str, script: &str) -> String {
    finish(command(stack, Path::new(shell), &["-c", script]), "").ok().stdout
}

/// Types the beginning of a name and the key that completes it, as people do.
fn type_and_complete(stack: &Stack, shell: &str, arguments: &[&str], prepare: &str) {
    let terminal = Terminal::start(&command(stack, Path::new(shell), arguments), 33, 91);
    terminal.ask_until("echo there-$((1 + 1))", "there-2");
    terminal.type_in(&format!("{prepare}; rcompose() {{ echo \"called: $*\"; }}\n"));
    terminal.ask_until("rcompose exec w\t", "called: exec web");
    terminal.type_in("exit\n");
    terminal.finish();
}

/// Lines that are typed, the last word of each as bash sees it, and what completes it.
const LINES: [(&str, &str, &str); 9] = [
    ("rcompose unp", "unp", "unpause"),
    ("rcompose up w", "w", "web worker"),
    ("rcompose up ", "", "console web worker"),
    // Only one of them runs.
    ("rcompose exec w", "w", "web"),
    ("rcompose --profile d", "d", "debug"),
    ("rcompose --profile=d", "d", "debug"),
    ("rcompose -f nowhere.yaml up w", "w", ""),
    ("rcompose up --scale wo", "wo", "worker="),
    ("rcompose image inspect busybox:l", "l", "latest"),
];

#[test]
fn bash_completes_names() {
    let stack = stack("complete-bash");
    for (line, word, wanted) in LINES {
        let script = format!(
            "source <(\"$PROGRAM\" completion bash)
            COMP_LINE='{line}' COMP_POINT=${{#COMP_LINE}}; _rcompose rcompose '{word}' ''; echo \"${{COMPREPLY[@]}}\""
        );
        assert_eq!(run(&stack, "bash", &script).trim(), wanted, "{line}");
    }
    let projects = "source <(\"$PROGRAM\" completion bash)
        COMP_LINE='rcompose -p ' COMP_POINT=12; _rcompose rcompose '' ''; echo \"${COMPREPLY[@]}\"";
    assert_eq!(run(&stack, "bash", projects).trim(), stack.project);
    type_and_complete(&stack, "bash", &["--norc", "-i"], "source <(\"$PROGRAM\" completion bash)");
    stack.finish();
}

#[test]
fn zsh_completes_names() {
    let stack = stack("complete-zsh");
    let prepare = "autoload -U compinit; compinit -u -D; source <(\"$PROGRAM\" completion zsh)";
    type_and_complete(&stack, "zsh", &["-f", "-i"], prepare);
    stack.finish();
}

#[test]
fn fish_completes_names() {
    let stack = stack("complete-fish");
    for (line, wanted) in
        [("rcompose exec w", "web\n"), ("rcompose up w", "web\nworker\n"), ("rcompose --profile d", "debug\n")]
    {
        let script = format!("source (\"$PROGRAM\" completion fish | psub); complete -C '{line}'");
        assert_eq!(run(&stack, "fish", &script), wanted, "{line}");
    }
    stack.finish();
}

#[test]
fn the_completion_of_docker_gets_its_answers() {
    let stack = stack("complete-docker");
    let link = stack.project_folder().join("docker-compose");
    symlink(stack::binary(), &link).expect("a link can be made");
    let ask = |arguments: &[&str]| finish(command(&stack, &link, arguments), "").ok().stdout;
    assert_eq!(ask(&["__completeNoDesc", "up", "w"]), "web\nworker\n:4\n");
    assert_eq!(ask(&["__completeNoDesc", "exec", ""]), "web\n:4\n");
    assert_eq!(ask(&["__completeNoDesc", "up", "--scale", "wo"]), "worker=\n:6\n");
    assert_eq!(ask(&["__completeNoDesc", "up", "none"]), ":4\n");
    // So `docker` asks its plugin, which has one more word.
    let described = ask(&["__complete", "compose", "unp"]);
    assert_eq!(described, "unpause\tUnpause services\n:4\n");
    stack.finish();
}

#[test]
fn every_command_has_a_manual_page_and_examples() {
    let stack = Stack::on_host("man");
    stack.run(&["man", "pages"]).ok();
    let page = |name: &str| fs::read_to_string(stack.project_folder().join("pages").join(name)).unwrap_or_default();
    let up = page("rcompose-up.1");
    for part in [".SH NAME", "Create and start containers", "\\-\\-detach", "rcompose up \\-d \\-\\-wait"] {
        assert!(up.contains(part), "{part}: {up}");
    }
    assert!(page("rcompose.1").contains("rcompose\\-image(1)"), "{}", page("rcompose.1"));
    assert!(page("rcompose-image-ls.1").contains("List images"), "{}", page("rcompose-image-ls.1"));
    let hidden = stack.project_folder().join("pages/rcompose-__with-guard.1");
    assert!(!hidden.exists(), "what is not for people has no page");
    for command in ["up", "watch", "with", "plan", "run", "exec", "logs", "graph", "config", "down", "ps", "build"] {
        let help = stack.run(&[command, "--help"]).ok().stdout;
        assert!(
            help.contains(&format!("  rcompose {command}")) || help.contains(&format!("Example: rcompose {command}")),
            "{help}"
        );
    }
    stack.finish();
}

#[test]
fn in_dockers_place_it_says_nothing_of_itself() {
    let stack = stack("guise");
    let program = stack.project_folder().join("docker-compose");
    symlink(stack::binary(), &program).expect("a link can be made");
    for (arguments, wanted) in [
        (&["version"][..], "Docker Compose version v2."),
        (&["compose", "version", "--short"], "2."),
        (&["--help"], "Usage: docker-compose [OPTIONS]"),
        (&["compose", "up", "--help"], "Usage: docker compose up"),
        (&["up", "--nonsense"], "Usage: docker-compose up"),
        (&["exec", "worker", "true"], "help: docker-compose up -d worker"),
        (&["compose", "exec", "worker", "true"], "help: docker compose up -d worker"),
        (&["port", "web", "80"], "help: docker-compose ps web"),
        (&["logs", "wob"], "help: did you mean web?"),
        (&["docker-cli-plugin-metadata"], "\"SchemaVersion\":\"0.1.0\""),
    ] {
        let output = finish(command(&stack, &program, arguments), "");
        let all = output.stdout + &output.stderr;
        assert!(all.contains(wanted), "{arguments:?}: {all}");
        assert!(!all.contains("rcompose"), "{arguments:?}: {all}");
    }
    stack.finish();
}
