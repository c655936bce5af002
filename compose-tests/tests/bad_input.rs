//! What the world does wrong: registries, disks, ports and rights. Each ends in one clear error, and leaves what ran alone
//! and nothing half-made behind.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use compose_tests::{
    factory::{self, cache::Cache, recipe, registry::Registry},
    output::Output,
    stack::{self, Stack},
};

const ONE: &str = "services:\n  web: {image: busybox, command: sleep 1000}\n";

/// Puts only busybox into a registry over `storage`.
fn push_busybox(storage: &Path) {
    let recipes = recipe::load_all(factory::recipes_dir()).expect("recipes are valid");
    let cache = Cache::open().expect("the cache can be opened");
    let busybox = recipes.iter().find(|recipe| recipe.name == "busybox").expect("there is a busybox");
    let image = cache.load(busybox, &recipes).expect("the cache is sound").expect("busybox was made");
    let registry = Registry::start(storage).expect("the registry starts");
    registry.push(&image, &cache).expect("busybox can be pushed");
}

/// Returns the files of the blobs of a registry's storage, the biggest first.
fn blobs(storage: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![storage.join("docker/registry/v2/blobs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the storage can be listed").flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).map_or(0, |metadata| metadata.len())));
    found
}

/// One error, and nothing of ours left in the images.
fn assert_clean_failure(stack: &Stack, output: Output) {
    output.fails();
    assert_eq!(stack.containers().len(), 0);
    let images = stack.run(&["images"]).ok();
    assert!(!images.stdout.contains("busybox"), "{images:?}");
}

#[test]
fn a_blob_with_a_wrong_digest() {
    let mut stack = Stack::new("digest");
    let storage = tempfile::tempdir().expect("a folder");
    push_busybox(storage.path());
    let layer = blobs(storage.path()).remove(0);
    let good = fs::read(&layer).expect("a blob can be read");
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    fs::write(&layer, &bad).expect("a blob can be written");
    stack.serve(storage.path());
    stack.write("compose.yaml", ONE);
    assert_clean_failure(&stack, stack.run(&["up", "-d"]).complains("busybox"));

    // A blob that ends too early.
    fs::write(&layer, &good[..middle]).expect("a blob can be written");
    assert_clean_failure(&stack, stack.run(&["up", "-d"]).complains("busybox"));

    // With the right bytes it works, in the same store.
    fs::write(&layer, &good).expect("a blob can be written");
    stack.run(&["up", "-d"]).ok();
    stack.finish();
}

#[test]
fn an_unreachable_registry() {
    let mut stack = Stack::new("unreachable");
    let address = stack.registry_address();
    stack.stop_registry();
    stack.write("compose.yaml", ONE);
    assert_clean_failure(&stack, stack.run(&["up", "-d"]).complains("busybox").complains(&address.to_string()));
    stack.finish();
}

/// A registry that answers `status` to everything, with a page that no JSON parser likes.
fn broken_registry(status: &'static str) -> std::net::SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 4096];
            // What was asked does not matter; a client that hangs up early is no concern either.
            if stream.read(&mut request).is_ok() {
                drop(write!(
                    stream,
                    "HTTP/1.1 {status}\r\nContent-Length: 14\r\nConnection: close\r\n\r\n<html>no</html"
                ));
            }
        }
    });
    address
}

#[test]
fn a_registry_that_talks_nonsense() {
    for status in ["500 Internal Server Error", "200 OK", "401 Unauthorized", "429 Too Many Requests"] {
        let stack = Stack::new("nonsense");
        let address = broken_registry(status);
        compose_tests::factory::registry::write_settings(stack.project_folder().parent().expect("a folder"), address)
            .expect("settings can be written");
        stack.write("compose.yaml", ONE);
        assert_clean_failure(&stack, stack.run(&["up", "-d"]).complains("busybox"));
        stack.finish();
    }
}

/// A small file system; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: PathBuf) -> SmallDisk {
        fs::create_dir_all(&folder).expect("a folder can be made");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "rct-full"]).arg(&folder).status();
        assert!(status.expect("util-linux is there").success());
        SmallDisk(folder)
    }

    /// Returns the free bytes.
    fn free(&self) -> u64 {
        let stat = nix::sys::statvfs::statvfs(&self.0).expect("a mounted file system has numbers");
        stat.blocks_available() * stat.fragment_size()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("--lazy").arg(&self.0).status().expect("util-linux is there");
        assert!(status.success() || thread::panicking(), "cannot unmount {}", self.0.display());
    }
}

#[test]
fn a_full_disk() {
    let stack = Stack::new("full");
    let disk = SmallDisk::mount(stack.root());
    stack.write("compose.yaml", ONE);
    stack.run(&["up", "-d"]).ok();
    let before = disk.free();
    let database = "  db: {image: 'postgres:16', environment: {POSTGRES_PASSWORD: x}}\n";
    stack.write("compose.yaml", &format!("{ONE}{database}"));
    let output = stack.run(&["up", "-d"]).fails();
    assert!(output.stderr.to_lowercase().contains("no space left"), "{output:?}");
    assert!(output.stderr.contains("postgres"), "{output:?}");
    // What ran goes on, and what was fetched in vain does not fill the disk for ever.
    assert_eq!(stack.container("web")["State"], "running");
    stack.run(&["exec", "-T", "web", "true"]).ok();
    assert!(disk.free() + 2_000_000 > before, "{before} bytes were free and now {}", disk.free());
    let containers = compose_tests::census::container_ids(&stack.root());
    stack.run(&["down", "-v", "-t", "0"]).ok();
    drop(disk);
    stack.finish_without_down(&containers);
}

#[test]
fn a_port_that_another_program_holds() {
    let stack = Stack::new("port");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    stack.write(
        "compose.yaml",
        &format!("services:\n  web: {{image: busybox, command: sleep 1000, ports: ['127.0.0.1:{port}:80']}}\n"),
    );
    let output = stack.run(&["up", "-d"]).fails().complains(&port.to_string());
    assert!(output.stderr.contains(&std::process::id().to_string()), "the holder is not named: {output:?}");
    drop(listener);
    stack.run(&["up", "-d"]).ok();
    stack.finish();
}

#[test]
fn a_port_of_another_project() {
    let stack = Stack::new("ports");
    stack.write(
        "compose.yaml",
        &stack.fill("services:\n  web: {image: busybox, command: sleep 1000, ports: ['127.0.0.1:{PORT1}:80']}\n"),
    );
    stack.run(&["up", "-d"]).ok();
    let other = format!("{}-other", stack.project);
    let output = stack.run(&["-p", &other, "up", "-d"]).fails().complains(&stack.fill("{PORT1}"));
    assert!(output.stderr.contains(&format!("{}-web-1", stack.project)), "the holder is not named: {output:?}");
    stack.run(&["-p", &other, "down", "-v", "-t", "0"]).ok();
    assert_eq!(stack.container("web")["State"], "running");
    stack.finish();
}

#[test]
fn not_being_root() {
    let stack = Stack::new("nobody");
    stack.write("compose.yaml", ONE);
    // The way to the project and to the binary must be open to that user.
    let mut folder = stack.project_folder();
    for _ in 0..2 {
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("modes can be changed");
        folder.pop();
    }
    let shared = tempfile::Builder::new().prefix("rct-").permissions(fs::Permissions::from_mode(0o755)).tempdir();
    let shared = shared.expect("a folder");
    let binary = shared.path().join("rcompose");
    fs::copy(stack::binary(), &binary).expect("the binary can be copied");
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary).args(arguments);
        command.current_dir(stack.project_folder()).env_clear();
        for (name, value) in stack.command::<&str>(&[]).get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        stack::finish(command, "")
    };
    as_nobody(&["config", "-q"]).ok();
    as_nobody(&["up", "-d"]).fails().complains("root");
    stack.finish();
}
