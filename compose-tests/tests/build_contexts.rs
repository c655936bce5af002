//! Builds whose files lie elsewhere: on standard input, on web servers, in git repositories and OCI layouts.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;

use compose_tests::output::Output;
use compose_tests::serve::{self, Web};
use compose_tests::stack::Stack;

/// Shows what is in its context.
const DOCKERFILE: &str =
    "FROM busybox:musl\nCOPY . /x/\nRUN cd /x && find . ! -type d | sort | xargs stat -c '%n %a %u'\n";

/// Writes a context into a folder of the project.
fn write_context(stack: &Stack, folder: &str) {
    stack.write(&format!("{folder}/Dockerfile"), DOCKERFILE);
    stack.write(&format!("{folder}/.dockerignore"), "one\n");
    stack.write(&format!("{folder}/one"), "one\n");
    stack.write(&format!("{folder}/sub/Dockerfile"), DOCKERFILE);
    stack.write(&format!("{folder}/sub/two"), "two\n");
}

/// Builds a context; what its command says can be looked for in the output.
fn build(stack: &Stack, arguments: &[&str]) -> Output {
    stack.run(&[&["--progress", "plain", "image", "build", "-t", "built"], arguments].concat())
}

#[track_caller]
fn shows(output: &Output, words: &[&str]) {
    assert_eq!(output.code, 0, "{output:?}");
    for word in words {
        assert!(output.stderr.contains(word), "{word}: {output:?}");
    }
}

#[track_caller]
fn is_refused(output: &Output, words: &str) {
    assert!(output.code == 1 && output.stderr.contains(words), "{words}: {output:?}");
}

#[test]
fn archives_and_dockerfiles_come_by_standard_input() {
    let stack = Stack::new("context-stdin");
    write_context(&stack, "c");
    // Owners stay, and `.dockerignore` leaves nothing out, as with BuildKit.
    let all = ["./.dockerignore 644 7", "./one 644 7", "./sub/two 644 7"];
    for compression in ["cat", "gzip", "xz", "bzip2", "zstd"] {
        let tar = "tar -C c --owner=7 --group=7 --mode=u=rwX,go=rX -c .";
        let line = format!("{tar} | {compression} | dc --progress plain image build --no-cache -");
        shows(&stack.shell(&line), &all);
    }
    let only = stack.shell("tar -C c --mode=u=rwX,go=rX -c . | dc --progress plain image build -f sub/Dockerfile -");
    shows(&only, &["./sub/two 644 0"]);
    let alone = stack
        .shell("printf 'FROM busybox:musl\\nCOPY . /x/\\nRUN ls -A /x | wc -l' | dc --progress plain image build -");
    shows(&alone, &[" 0\n"]);
    let aside = stack.shell("dc --progress plain image build -f - c <c/sub/Dockerfile");
    shows(&aside, &["./sub/two "]);
    assert!(!aside.stderr.contains("./one "), "{aside:?}");

    for (line, words) in [
        ("dc image build -f - - <c/Dockerfile", "can't use stdin for both build context and dockerfile"),
        ("dc image build -f other - <c/Dockerfile", "ambiguous Dockerfile source: both stdin and flag"),
        ("tar -C c -c . | dc image build -f other -", "failed to read dockerfile: open other: no such file"),
        ("printf '' | dc image build -", "the Dockerfile cannot be empty"),
        ("tar -C c -c one | xz | head -c 100 | dc image build -", "no UTF-8 text"),
        ("tar -C /dev -c null | dc image build -", "null is a device"),
        ("tar -C c -c -P --transform 's,one,../one,' one Dockerfile | dc image build -", "it leads up"),
    ] {
        is_refused(&stack.shell(line), words);
    }
    stack.finish();
}

#[test]
fn web_servers_have_archives_dockerfiles_and_files_to_add() {
    let stack = Stack::new("context-web");
    write_context(&stack, "c");
    stack.write("w/file", "from the web\n");
    stack.write("w/Dockerfile", "FROM busybox:musl\nRUN echo said by the web\n");
    stack.shell("tar -C c -czf w/c.tgz Dockerfile one && tar -C c -cJf w/c.txz one && cp w/c.tgz w/archive").ok();
    let web = Web::start(&stack.project_folder().join("w"));
    let url = |path: &str| format!("http://{}/{path}", web.address);

    shows(&build(&stack, &[&url("c.tgz")]), &["./one 644 0"]);
    shows(&build(&stack, &[&url("Dockerfile")]), &["said by the web"]);
    shows(&build(&stack, &["-f", &url("Dockerfile"), "c"]), &["said by the web"]);
    is_refused(&build(&stack, &[&url("none")]), "the server answered 404");
    is_refused(&build(&stack, &[&url("round")]), "redirects without end");
    is_refused(&build(&stack, &["-f", &url("c.tgz"), "c"]), "a Dockerfile must be a text");
    web.take();

    // Like BuildKit, for root alone and as old as its server says; asked for again, it does not come again.
    let add = |lines: &str| {
        let text = format!("FROM busybox:musl\n{lines}\nRUN find /a -type f | sort | xargs stat -c '%n %a %u %Y'\n");
        stack.write("c/Dockerfile", &text);
        build(&stack, &["c"])
    };
    let line = format!("ADD {} /a/\nADD {} /a/b", url("to/file"), url("file"));
    shows(&add(&line), &["/a/file 600 0 1577934245", "/a/b 600 0 1577934245"]);
    let mut asked = web.take();
    asked.sort();
    assert_eq!(asked, ["200 /file", "200 /file", "302 /to/file"]);
    shows(&add(&line), &["ADD http", "CACHED"]);
    let mut asked = web.take();
    asked.sort();
    assert_eq!(asked, ["302 /to/file", "304 /file", "304 /file"]);
    stack.write("w/file", "changed on the web\n");
    let again = add(&format!("ADD {} /a/b", url("file")));
    assert!(!again.stderr.contains("CACHED"), "{again:?}");
    assert_eq!(web.take(), ["200 /file"]);

    let checksum = stack.shell("sha256sum w/file | cut -d' ' -f1").stdout;
    let line = |digits: &str| format!("ADD --checksum=sha256:{digits} {} /a/", url("file"));
    shows(&add(&line(checksum.trim())), &["/a/file 600"]);
    assert_eq!(web.take(), Vec::<String>::new(), "what its checksum names is here already");
    is_refused(&add(&line(&"0".repeat(64))), "is not what it should be: its checksum is sha256:");
    is_refused(&add(&format!("ADD {} /a/", url("none"))), "the server answered 404");
    let unpacked = add(&format!(
        "ADD --unpack=true {} /a/\nADD {} /a/\nADD --chmod=755 {} /a/",
        url("c.txz"),
        url("archive"),
        url("c.tgz")
    ));
    shows(&unpacked, &["/a/one 644 0", "/a/archive 600 0", "/a/c.tgz 755 0"]);
    stack.finish();
}

#[test]
fn repositories_are_contexts_and_are_added() {
    let stack = Stack::new("context-git");
    write_context(&stack, "r");
    let folder = stack.project_folder();
    stack.write("s/in-the-submodule", "s\n");
    serve::make_repository(&folder.join("s"));
    symlink("/etc", folder.join("r/out")).expect("a link can be made");
    symlink("sub", folder.join("r/in")).expect("a link can be made");
    symlink("/etc/shadow", folder.join("r/Shadow")).expect("a link can be made");
    let server = serve::serve_git(&folder);
    serve::git(&folder, &["init", "--quiet", "r"]);
    serve::git(&folder.join("r"), &["submodule", "--quiet", "add", &format!("git://{server}/s/.git"), "module"]);
    serve::make_repository(&folder.join("r"));
    serve::git(&folder.join("r"), &["tag", "--annotate", "--message", "a", "annotated"]);
    serve::git(&folder.join("r"), &["checkout", "--quiet", "-b", "other"]);
    stack.write("r/sub/two", "another two\n");
    serve::git(&folder.join("r"), &["commit", "--quiet", "--all", "--message", "other"]);
    serve::git(&folder.join("r"), &["update-server-info"]);
    let commit = stack.shell("git -C r rev-parse v1").stdout.trim().to_owned();
    let url = format!("git://{server}/r/.git");

    // `.dockerignore` leaves nothing out, as with BuildKit.
    let whole = build(&stack, &[&format!("{url}#main")]);
    shows(
        &whole,
        &[&format!("[internal] load git source {url}#main"), "./one 644 0", "./module/in-the-submodule 644 0"],
    );
    assert!(!whole.stderr.contains("./.git/"), "{whole:?}");
    for name in [
        "#v1:sub",
        "#annotated:sub",
        "#other:sub",
        "?ref=v1&subdir=sub",
        "?branch=main&subdir=in",
        &format!("#{commit}:sub"),
    ] {
        let part = build(&stack, &["--no-cache", &format!("{url}{name}")]);
        shows(&part, &["./two 644 0"]);
        assert!(!part.stderr.contains("./sub"), "{part:?}");
    }
    let kept = build(&stack, &["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", &format!("{url}#v1")]);
    shows(&kept, &["./.git/HEAD", "./module/.git"]);
    // A server that only has files, as any web server can.
    let web = Web::start(&folder);
    let dumb = ["--progress", "plain", "image", "build", "-f", "-", &format!("http://{}/s/.git#v1", web.address)];
    shows(&stack.run_with(&dumb, &BTreeMap::new(), DOCKERFILE), &["./in-the-submodule 644 0"]);
    for (what, words) in [
        ("#nothing", "does not contain ref nothing"),
        ("#v1:none", "\"none\": not found"),
        ("#v1:out", "\"out\": not found"),
        ("#v1:one", "there is no directory one"),
        ("#v1:../x", "outside of the repository"),
        ("?commit=0000&ref=v1", "is not what it should be"),
    ] {
        is_refused(&build(&stack, &[&format!("{url}{what}")]), words);
    }
    let shadow = build(&stack, &["-f", "Shadow", &format!("{url}#v1")]);
    is_refused(&shadow, "failed to read dockerfile: open Shadow");
    assert!(!shadow.stderr.contains("root:"), "{shadow:?}");

    stack.write(
        "c/Dockerfile",
        &format!("FROM busybox:musl\nADD {url}#v1:sub /x/\nADD --keep-git-dir=true {url}#v1 /y/\nRUN ls /x /y/.git\n"),
    );
    shows(&build(&stack, &["c"]), &["two", "HEAD"]);
    shows(&build(&stack, &["c"]), &["CACHED"]);
    stack.write(
        "c/Dockerfile",
        &format!("FROM busybox:musl\nADD --checksum={commit} {url}#v1 /x/\nADD --checksum=0123 {url}#v1 /x/\n"),
    );
    is_refused(&build(&stack, &["c"]), &format!("its checksum is {commit}, and not 0123"));
    assert!(fs::read_dir(stack.root().join("lib/build/tmp")).is_ok_and(|mut left| left.next().is_none()));
    stack.finish();
}

#[test]
fn a_stage_begins_with_a_context_that_is_no_image() {
    let stack = Stack::new("context-stage");
    stack.shell("printf 'FROM busybox:musl\n' | dc image build -q -o base -").ok();
    stack.write("base/.dockerignore", "left-out\n");
    stack.write("base/left-out", "");
    stack.write("base/kept", "");
    stack.shell("chmod 700 base && ln base/kept base/linked && chown 7:7 base/kept && tar -C base --owner=7 --group=7 -cf base.tar kept").ok();
    stack.write("r/of-the-repository", "");
    let folder = stack.project_folder();
    serve::make_repository(&folder.join("r"));
    let (server, web) = (serve::serve_git(&folder), Web::start(&folder));
    stack.write(
        "c/Dockerfile",
        "FROM base AS made
RUN stat -c 'root %a %u' / && stat -c 'names: %h' /kept; ls /left-out /kept; echo \"in $PWD with $PATH\"; echo made >/made
FROM repository AS files
WORKDIR /w
FROM archive
COPY --from=files . /files
COPY --from=made /made /made
COPY --from=base /kept /kept-too
LABEL a=b
",
    );
    let contexts = [
        "--build-context=base=base".to_owned(),
        format!("--build-context=repository=git://{server}/r/.git#v1"),
        format!("--build-context=archive=http://{}/base.tar", web.address),
    ];
    let arguments: Vec<&str> = contexts.iter().map(String::as_str).chain(["c"]).collect();
    let first = build(&stack, &arguments);
    shows(
        &first,
        &[
            "[context base] load from client",
            "[made 1/2] RUN",
            "root 755 0",
            "names: 2",
            "ls: /left-out: No such file or directory",
            " /kept\n",
            "in / with /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ],
    );
    let history = stack.run(&["image", "history", "--format", "{{.CreatedBy}}", "built"]).ok().stdout;
    assert!(history.ends_with("source for archive\n"), "{history}");
    let layers = ["image", "inspect", "built", "--format", "{{len .RootFS.Layers}} {{index .Config.Labels \"a\"}}"];
    assert_eq!(stack.run(&layers).ok().stdout, "4 b\n");
    let list = "dc image build -q -o out --build-context=built=docker-image://built - <<E\nFROM built\nE\n";
    stack.shell(list).ok();
    let files = stack.shell("cd out && find . -type f | sort").ok().stdout;
    assert_eq!(files, "./files/of-the-repository\n./kept\n./kept-too\n./made\n");
    let again = build(&stack, &arguments);
    assert_eq!(again.stderr.matches("CACHED").count(), 8, "{again:?}");
    is_refused(&build(&stack, &["--build-context=base=nowhere", "c"]), "build context base: nowhere is no directory");
    is_refused(&build(&stack, &["--build-context=base=target:x", "c"]), "failed to find target x for context base");
    stack.write("base/kept", "changed");
    let changed = build(&stack, &arguments);
    assert!(after(&changed.stderr, "[made 1/2] RUN").is_some_and(|said| said != "CACHED"), "{changed:?}");
    stack.finish();
}

/// What is said of a step, below the line with its name.
fn after<'a>(text: &'a str, step: &str) -> Option<&'a str> {
    let mut lines = text.lines().skip_while(|line| !line.contains(step));
    lines.nth(1)?.split_once(' ').map(|(_, said)| said)
}

#[test]
fn keys_and_agents_are_lent_to_commands_of_any_user() {
    let stack = Stack::new("build-ssh");
    stack
        .shell(
            "ssh-keygen -q -t ed25519 -N '' -C one -f one && ssh-keygen -q -t rsa -b 2048 -m PEM -N '' -C two -f two &&
             ssh-keygen -q -t ecdsa -N secret -f protected",
        )
        .ok();
    // Asks an agent for its keys (draft-miller-ssh-agent): how many, and what they are called.
    stack.write(
        "c/ask.py",
        "import os, socket, struct
s = socket.socket(socket.AF_UNIX)
s.connect(os.environ['SSH_AUTH_SOCK'])
s.sendall(struct.pack('>IB', 1, 11))
answer = s.makefile('rb')
length, kind, count = struct.unpack('>IBI', answer.read(9))
rest = answer.read(length - 5)
print('user', os.getuid(), 'has', count, b'one' in rest, oct(os.stat(os.environ['SSH_AUTH_SOCK']).st_mode & 0o777))
",
    );
    stack.write(
        "c/Dockerfile",
        "FROM python:3.12-slim
COPY ask.py /
RUN --mount=type=ssh python3 /ask.py
USER 1234
RUN --mount=type=ssh,id=other,uid=1234,mode=0640 python3 /ask.py
RUN --mount=type=ssh,required python3 /ask.py 2>&1 | tail -1
",
    );
    let ssh = ["--ssh", "default=one,two", "--ssh", "other=one"];
    let output = build(&stack, &[&ssh[..], &["c"]].concat());
    shows(&output, &["user 0 has 2 ", "0o600", "user 1234 has 1 True 0o640", "PermissionError"]);
    for (given, words) in [
        ("protected", "protected is protected by a passphrase"),
        ("c/Dockerfile", "c/Dockerfile is neither the socket of an SSH agent nor a private key"),
        ("one.pub", "one.pub is neither"),
        ("nowhere", "cannot read nowhere"),
    ] {
        is_refused(&build(&stack, &["--ssh", &format!("default={given}"), "c"]), words);
    }
    // An agent of the user, under another name than its own.
    let line = "exec ssh-agent sh -c 'ssh-add -q one && \"$PROGRAM\" --progress plain image build --no-cache \
                --ssh default --ssh other=$SSH_AUTH_SOCK c'";
    shows(&stack.shell(line), &["user 0 has 1 True", "user 1234 has 1 True"]);
    assert!(stack.own_processes().is_empty(), "an agent is left");
    stack.finish();
}

#[test]
fn repositories_by_http_are_shown_the_secrets_that_are_for_them() {
    let stack = Stack::new("context-git-http");
    write_context(&stack, "r");
    serve::make_repository(&stack.project_folder().join("r"));
    // What BuildKit makes of a token, and a header as it is.
    for (secret, header) in
        [("GIT_AUTH_TOKEN", "Basic eC1hY2Nlc3MtdG9rZW46dG9r"), ("GIT_AUTH_HEADER", "Bearer of-the-header")]
    {
        let web = Web::start_for(&stack.project_folder(), header);
        let url = format!("http://{}/r/.git#v1:sub", web.address);
        is_refused(&build(&stack, &["--no-cache", &url]), "cannot fetch the repository");
        let value = if secret == "GIT_AUTH_TOKEN" { "tok" } else { header };
        let host = web.address.ip();
        stack.write("value", &format!("{value}\n"));
        for id in [secret.to_owned(), format!("{secret}.{host}")] {
            let given = format!("id={id},src=value");
            shows(&build(&stack, &["--no-cache", "--secret", &given, &url]), &["./two 644 0"]);
        }
        let other = format!("id={secret}.other.test,src=value");
        is_refused(&build(&stack, &["--no-cache", "--secret", &other, &url]), "cannot fetch the repository");
        let asked = web.take();
        assert!(asked.iter().any(|line| line.starts_with("401 ")), "{asked:?}");
    }
    assert!(!stack.shell("grep -r of-the-header \"$RCOMPOSE_ROOT\"").stdout.contains("of-the-header"));
    stack.finish();
}

#[test]
fn services_are_built_from_everywhere() {
    let stack = Stack::new("context-compose");
    write_context(&stack, "r");
    stack.write("local/there", "local\n");
    let folder = stack.project_folder();
    stack.shell("mkdir layout && tar -C local -czf local.tgz there").ok();
    serve::make_repository(&folder.join("r"));
    let (server, web) = (serve::serve_git(&folder), Web::start(&folder));
    stack.run(&["image", "pull", "busybox:musl"]).ok();
    stack.shell("dc image save busybox:musl | tar -C layout -x").ok();
    stack.write(
        "compose.yaml",
        &format!(
            "services:
  git: {{build: {{context: 'git://{server}/r/.git#v1:sub'}}}}
  web: {{build: {{context: 'http://{}/local.tgz', dockerfile_inline: \"FROM busybox:musl\\nCOPY . /x/\\nRUN ls /x\\n\"}}}}
  all:
    build:
      context: local
      dockerfile_inline: |
        FROM layout
        COPY --from=path . /path/
        COPY --from=archive . /archive/
        COPY --from=repository . /repository/
        COPY --from=image /bin/busybox /image
        COPY --from=service /x/two /service
        RUN ls -d /path/there /archive/there /repository/two /image /service
      additional_contexts:
        layout: oci-layout://{}:musl
        path: ./local
        archive: http://{}/local.tgz
        repository: git://{server}/r/.git#v1:sub
        image: docker-image://busybox:musl
        service: service:git
",
            web.address,
            folder.join("layout").display(),
            web.address,
        ),
    );
    let built = stack.run(&["--progress", "plain", "build"]);
    shows(
        &built,
        &["./two 644 0", " there\n", "/path/there", "/archive/there", "/repository/two", "/image", "/service"],
    );
    stack.write("compose.yaml", &format!("services: {{a: {{build: {{context: ., dockerfile_inline: 'FROM x', additional_contexts: {{x: 'oci-layout://{}:none'}}}}}}}}\n", folder.join("layout").display()));
    is_refused(&stack.run(&["build"]), "has no image none");
    stack.finish();
}

#[test]
fn a_step_that_fails_ends_those_beside_it() {
    let stack = Stack::new("build-siblings");
    // The first stage fails once the other runs, which both can see.
    stack.write(
        "c/Dockerfile",
        "FROM busybox:musl AS slow
RUN --mount=type=cache,target=/m touch /m/begun; exec sleep 1000
FROM busybox:musl AS fails
RUN --mount=type=cache,target=/m until test -e /m/begun; do sleep 0.1; done; exit 7
FROM busybox:musl
COPY --from=slow / /slow
COPY --from=fails / /fails
",
    );
    let output = build(&stack, &["c"]);
    is_refused(&output, "did not complete successfully: exit code: 7");
    assert!(output.stderr.contains("CANCELED") && output.stderr.contains("Dockerfile:4"), "{output:?}");
    stack.finish();
}
