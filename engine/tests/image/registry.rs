//! Pulls from registries that misbehave, that want tokens, and that redirect.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Answer, FakeServer, Layer, Seen, Setup, TestImage, honest, is_root, runtime};
use rcompose_engine::image::{
    ClientOptions, Image, ProxySettings, PullError, RegistrySettings, Timeouts, no_progress, pull, save_credentials,
};

/// An image whose one layer has bytes that do not compress.
fn image(size: usize) -> TestImage {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u8::try_from(state >> 56).unwrap()
    })
    .take(size)
    .collect();
    TestImage::new(&[(Layer::new().file("noise", &noise).tar(), "")])
}

fn quick(options: &mut ClientOptions) {
    options.timeouts = Timeouts { connect: Duration::from_secs(2), idle: Duration::from_millis(500) };
}

fn attempt(setup: &Setup, server: &FakeServer) -> Result<Image, PullError> {
    runtime().block_on(pull(&setup.store, &server.reference("app"), &setup.options, &no_progress()))
}

fn is_layer(request: &Seen, image: &TestImage) -> bool {
    request.path.ends_with(&image.layers[0])
}

/// Answers the first few requests for the layer with something else.
fn spoiling(
    image: &TestImage,
    times: usize,
    spoil: impl Fn(&Seen, &[u8]) -> Answer + Send + Sync + 'static,
) -> FakeServer {
    let (own, count) = (image.clone(), AtomicUsize::new(0));
    FakeServer::serving(image.clone(), move |request| {
        let hit = is_layer(request, &own) && count.fetch_add(1, Ordering::SeqCst) < times;
        hit.then(|| spoil(request, &own.blobs[&own.layers[0]]))
    })
}

#[test]
fn a_broken_download_goes_on_where_it_broke() {
    if !is_root() {
        return;
    }
    let image = image(2_000_000);
    let own = image.clone();
    // Honest about ranges, but never sends more than 600,000 bytes of what it promises.
    let server = FakeServer::serving(image.clone(), move |request| {
        if !is_layer(request, &own) {
            return None;
        }
        match honest(&own, request) {
            Answer::Send(status, head, body) if body.len() > 600_000 => Some(Answer::Cut(status, head, body, 600_000)),
            answer => Some(answer),
        }
    });
    let setup = Setup::with(|options| {
        quick(options);
        options.attempts = 6;
    });
    let image = attempt(&setup, &server).unwrap();
    assert_eq!(setup.store.read_file(&image, "noise").unwrap().unwrap().len(), 2_000_000);
    let seen = server.seen.lock().unwrap();
    let ranges: Vec<&str> = seen
        .iter()
        .filter(|seen| is_layer(seen, &own_layers(&image)))
        .filter_map(|seen| seen.headers.get("range"))
        .map(String::as_str)
        .collect();
    assert!(ranges.len() >= 3, "{ranges:?}");
    let starts: Vec<u64> =
        ranges.iter().map(|range| range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap()).collect();
    assert!(starts.is_sorted() && starts[0] > 0, "{starts:?}");
}

/// What [`is_layer`] wants to know of an image that was pulled.
fn own_layers(image: &Image) -> TestImage {
    TestImage {
        blobs: std::collections::BTreeMap::new(),
        manifest: Vec::new(),
        media_type: String::new(),
        layers: image.layers.iter().map(|layer| layer.digest.to_string()).collect(),
    }
}

#[test]
fn a_server_without_ranges_starts_over_and_is_understood() {
    if !is_root() {
        return;
    }
    let image = image(1_000_000);
    let (own, count) = (image.clone(), AtomicUsize::new(0));
    let server = FakeServer::serving(image, move |request| {
        is_layer(request, &own).then(|| {
            let blob = own.blobs[&own.layers[0]].clone();
            let sent = blob.len() * (count.fetch_add(1, Ordering::SeqCst) + 1) / 3;
            Answer::Cut(200, String::new(), blob, sent)
        })
    });
    let setup = Setup::with(quick);
    let image = attempt(&setup, &server).unwrap();
    assert_eq!(setup.store.read_file(&image, "noise").unwrap().unwrap().len(), 1_000_000);
}

#[test]
fn a_range_that_was_not_asked_for_is_refused() {
    let image = image(1_000_000);
    let (own, count) = (image.clone(), AtomicUsize::new(0));
    let server = FakeServer::serving(image, move |request| {
        is_layer(request, &own).then(|| {
            let blob = own.blobs[&own.layers[0]].clone();
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                return Answer::Cut(200, String::new(), blob, 1000);
            }
            Answer::Send(206, format!("Content-Range: bytes 0-{}/{}\r\n", blob.len() - 1, blob.len()), blob)
        })
    });
    let setup = Setup::with(quick);
    let error = attempt(&setup, &server).unwrap_err();
    assert!(error.to_string().contains("is not the range from"), "{error}");
    assert_eq!(setup.leftovers(), [""; 0]);
}

#[test]
fn temporary_errors_are_waited_out() {
    if !is_root() {
        return;
    }
    for status in [500, 502, 503, 504, 408] {
        let image = image(1000);
        let server = spoiling(&image, 2, move |_, _| Answer::Send(status, String::new(), Vec::new()));
        let setup = Setup::with(quick);
        attempt(&setup, &server).unwrap_or_else(|error| panic!("{status}: {error}"));
    }
    let image = image(1000);
    let server = spoiling(&image, 1, |_, _| Answer::Send(429, "Retry-After: 1\r\n".to_owned(), Vec::new()));
    let setup = Setup::with(quick);
    let start = Instant::now();
    attempt(&setup, &server).unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1), "Retry-After is obeyed");
}

#[test]
fn lasting_errors_are_told() {
    let image = image(1000);
    let body = br#"{"errors":[{"code":"UNKNOWN","message":"the disk is on fire"}]}"#;
    let server = spoiling(&image, 99, |_, _| Answer::Send(500, String::new(), body.to_vec()));
    let setup = Setup::with(quick);
    let text = attempt(&setup, &server).unwrap_err().to_string();
    assert!(text.contains("500") && text.contains("the disk is on fire") && text.contains("blob"), "{text}");
    assert_eq!(server.count(&image.layers[0]), 4, "as often as was allowed");
    assert_eq!(setup.leftovers(), [""; 0]);
    // What cannot get better is not tried again.
    let server = spoiling(&image, 99, |_, _| Answer::Send(400, String::new(), Vec::new()));
    assert!(attempt(&setup, &server).is_err());
    assert_eq!(server.count(&image.layers[0]), 1);
}

#[test]
fn silence_is_not_waited_for_for_ever() {
    let image = image(100_000);
    for what in ["manifest", "answer", "data"] {
        let own = image.clone();
        let server = FakeServer::serving(image.clone(), move |request| match what {
            "manifest" => request.path.contains("/manifests/").then_some(Answer::Silence),
            "answer" => is_layer(request, &own).then_some(Answer::Silence),
            _ => is_layer(request, &own).then(|| {
                let blob = own.blobs[&own.layers[0]].clone();
                Answer::Slow(200, String::new(), blob, 50_000, Duration::from_secs(3))
            }),
        });
        let setup = Setup::with(|options| {
            quick(options);
            options.attempts = 2;
        });
        let start = Instant::now();
        let error = attempt(&setup, &server).unwrap_err();
        assert!(error.to_string().contains("within 0.5 s"), "{what}: {error}");
        assert!(start.elapsed() < Duration::from_secs(8), "{what} took {:?}", start.elapsed());
        assert_eq!(setup.leftovers(), [""; 0]);
    }
}

#[test]
fn a_deadline_ends_a_trickle() {
    let image = image(100_000);
    let server =
        spoiling(&image, 99, |_, blob| Answer::Slow(200, String::new(), blob.to_vec(), 100, Duration::from_millis(50)));
    let mut setup = Setup::new();
    setup.options.deadline = Some(Duration::from_secs(1));
    let start = Instant::now();
    let error = attempt(&setup, &server).unwrap_err();
    assert!(matches!(error, PullError::Deadline { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[test]
fn what_a_given_up_pull_has_fetched_is_not_fetched_again() {
    if !is_root() {
        return;
    }
    let image = image(2_000_000);
    let server = spoiling(&image, 1, |_, blob| {
        Answer::Slow(200, String::new(), blob.to_vec(), 500_000, Duration::from_millis(300))
    });
    let setup = Setup::new();
    let runtime = runtime();
    let reference = server.reference("app");
    runtime.block_on(async {
        let progress = no_progress();
        let pulling = pull(&setup.store, &reference, &setup.options, &progress);
        assert!(tokio::time::timeout(Duration::from_millis(800), pulling).await.is_err());
    });
    // The thread that unpacks hears of it when the channel closes.
    let deadline = Instant::now() + Duration::from_secs(5);
    while setup.leftovers().iter().any(|name| name.contains("locks") || name.contains("layers")) {
        assert!(Instant::now() < deadline, "{:?}", setup.leftovers());
        std::thread::sleep(Duration::from_millis(10));
    }
    let image = runtime.block_on(pull(&setup.store, &reference, &setup.options, &no_progress())).unwrap();
    assert_eq!(setup.store.read_file(&image, "noise").unwrap().unwrap().len(), 2_000_000);
    let seen = server.seen.lock().unwrap();
    let last = seen.iter().rfind(|seen| seen.path.contains("/blobs/")).unwrap();
    assert!(last.headers.contains_key("range"), "the second pull went on: {last:?}");
    assert_eq!(setup.leftovers(), [""; 0]);
}

#[test]
fn connections_to_one_host_are_few() {
    if !is_root() {
        return;
    }
    let layers: Vec<(Vec<u8>, &str)> =
        (0..40).map(|number| (Layer::new().file(&format!("f{number}"), &vec![number; 10_000]).tar(), "gzip")).collect();
    let server = FakeServer::serving(TestImage::new(&layers), |request| {
        std::thread::sleep(Duration::from_millis(if request.path.contains("/blobs/") { 5 } else { 0 }));
        None
    });
    let setup = Setup::new();
    attempt(&setup, &server).unwrap();
    let most = server.most_open.load(Ordering::SeqCst);
    assert!((1..=8).contains(&most), "{most} connections at once");
}

/// A token server and a registry behind it.
struct Tokens {
    registry: FakeServer,
    tokens: FakeServer,
}

fn with_tokens(image: TestImage, accept: impl Fn(&Seen) -> bool + Send + Sync + 'static) -> Tokens {
    let tokens = FakeServer::start(move |request| {
        if accept(request) {
            Answer::Send(200, String::new(), br#"{"token":"the-token","expires_in":300}"#.to_vec())
        } else {
            Answer::Send(401, String::new(), br#"{"details":"incorrect username or password"}"#.to_vec())
        }
    });
    let realm = format!("http://{}/token", tokens.address);
    let registry = FakeServer::serving(image, move |request| {
        let authorized = request.headers.get("authorization").is_some_and(|value| value == "Bearer the-token");
        (!authorized).then(|| {
            let challenge = format!(
                "WWW-Authenticate: Bearer realm=\"{realm}\",service=\"the registry\",scope=\"repository:app:pull\"\r\n"
            );
            Answer::Send(401, challenge, Vec::new())
        })
    });
    Tokens { registry, tokens }
}

#[test]
fn a_token_is_fetched_once_and_used_for_all() {
    if !is_root() {
        return;
    }
    let layers: Vec<(Vec<u8>, &str)> =
        (0..6).map(|number| (Layer::new().file("f", &vec![number; 10_000]).tar(), "gzip")).collect();
    let servers = with_tokens(TestImage::new(&layers), |_| true);
    let setup = Setup::new();
    attempt(&setup, &servers.registry).unwrap();
    let seen = servers.tokens.seen.lock().unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].path, "/token?service=the%20registry&scope=repository:app:pull");
    assert!(!seen[0].headers.contains_key("authorization"), "without credentials, as anybody");
}

#[test]
fn credentials_and_refresh_tokens_go_to_the_token_server_only() {
    if !is_root() {
        return;
    }
    let image = image(1000);
    let servers = with_tokens(image.clone(), |request| {
        // `user:secret`
        request.headers.get("authorization").is_some_and(|value| value == "Basic dXNlcjpzZWNyZXQ=")
    });
    let host = servers.registry.address.to_string();
    let setup = Setup::new();
    let error = attempt(&setup, &servers.registry).unwrap_err();
    assert!(matches!(error, PullError::Denied { .. }), "{error}");
    assert!(error.to_string().contains("incorrect username or password"), "{error}");
    let config = setup.directory.path().join("config.json");
    save_credentials(&config, &host, "user", "secret").unwrap();
    let setup = Setup::with(|options| options.docker_config = Some(config.clone()));
    attempt(&setup, &servers.registry).unwrap();
    for seen in servers.registry.seen.lock().unwrap().iter() {
        let authorization = seen.headers.get("authorization").map_or("", String::as_str);
        assert!(!authorization.starts_with("Basic"), "{seen:?}");
    }

    let servers = with_tokens(image, |request| {
        let form = String::from_utf8_lossy(&request.body).into_owned();
        request.method == "POST"
            && form.contains("grant_type=refresh_token")
            && form.contains("refresh_token=id%2Btoken")
    });
    let document = serde_json::json!({"auths": {servers.registry.address.to_string(): {"identitytoken": "id+token"}}});
    fs::write(&config, document.to_string()).unwrap();
    let setup = Setup::with(|options| options.docker_config = Some(config.clone()));
    attempt(&setup, &servers.registry).unwrap();
}

#[test]
fn a_redirect_leaves_the_credentials_behind() {
    if !is_root() {
        return;
    }
    let image = image(100_000);
    let store = FakeServer::serving(image.clone(), |_| None);
    let (elsewhere, own) = (store.address, image.clone());
    let registry = FakeServer::serving(image, move |request| {
        if request.headers.get("authorization").is_none_or(|value| value != "Basic dXNlcjpzZWNyZXQ=") {
            return Some(Answer::Send(401, "WWW-Authenticate: Basic realm=\"r\"\r\n".to_owned(), Vec::new()));
        }
        is_layer(request, &own).then(|| {
            let location = format!("Location: http://{elsewhere}/signed/{}\r\n", own.layers[0]);
            Answer::Send(307, location, Vec::new())
        })
    });
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.json");
    save_credentials(&config, &registry.address.to_string(), "user", "secret").unwrap();
    let setup = Setup::with(|options| options.docker_config = Some(config));
    attempt(&setup, &registry).unwrap();
    let seen = store.seen.lock().unwrap();
    assert_eq!(seen.len(), 1);
    assert!(!seen[0].headers.contains_key("authorization"), "{:?}", seen[0]);
}

#[test]
fn a_credential_helper_is_asked() {
    if !is_root() {
        return;
    }
    let image = image(1000);
    let registry = FakeServer::serving(image, move |request| {
        let known = request.headers.get("authorization").is_some_and(|value| value == "Basic aGVscGVyOnNlY3JldA==");
        (!known).then(|| Answer::Send(401, "WWW-Authenticate: Basic realm=\"r\"\r\n".to_owned(), Vec::new()))
    });
    let directory = tempfile::tempdir().unwrap();
    // Programs are looked for where PATH says, and tests of one process share that: a name of our own in a directory
    // that is in it anyway.
    let name = format!("rcompose-test-{}", std::process::id());
    let program = std::path::PathBuf::from(format!("/usr/local/bin/docker-credential-{name}"));
    let script = "#!/bin/sh\nread server\necho '{\"ServerURL\":\"x\",\"Username\":\"helper\",\"Secret\":\"secret\"}'\n";
    if fs::write(&program, script).is_err() {
        eprintln!("skipped: cannot write to /usr/local/bin");
        return;
    }
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let config = directory.path().join("config.json");
    let document = serde_json::json!({"credHelpers": {registry.address.to_string(): name}});
    fs::write(&config, document.to_string()).unwrap();
    let setup = Setup::with(|options| options.docker_config = Some(config));
    let result = attempt(&setup, &registry);
    fs::remove_file(&program).unwrap();
    result.unwrap();
}

#[test]
fn a_proxy_is_used_but_not_for_this_machine() {
    // Names below .test exist nowhere, so only a proxy can have answered.
    let image = image(1000);
    let proxy = FakeServer::serving(image.clone(), |_| None);
    let settings: RegistrySettings = serde_json::from_value(serde_json::json!({
        "registries": {"mirrored.test": {"mirrors": ["http://registry.test"], "mirrors_only": true}},
        "proxy": {"http": proxy.address.to_string()},
    }))
    .unwrap();
    assert_eq!(settings.proxy.no_proxy, ProxySettings::default().no_proxy);
    let setup = Setup::with(|options| {
        quick(options);
        options.settings = Arc::new(settings);
    });
    if !is_root() {
        return;
    }
    let reference = "mirrored.test/app".parse().unwrap();
    runtime().block_on(pull(&setup.store, &reference, &setup.options, &no_progress())).unwrap();
    let seen = proxy.seen.lock().unwrap();
    assert!(seen.iter().all(|seen| seen.path.starts_with("http://registry.test/v2/app/")), "{seen:?}");
    drop(seen);
    let direct = FakeServer::serving(image, |_| None);
    attempt(&setup, &direct).unwrap();
    assert!(direct.count("/v2/") > 0);
}

#[test]
fn the_lock_is_waited_for_and_a_dead_holder_is_not() {
    if !is_root() {
        return;
    }
    // What a process that was killed leaves behind: a lock file, a partial blob of the wrong bytes, a half layer.
    let image = image(300_000);
    let server = FakeServer::serving(image.clone(), |_| None);
    let setup = Setup::new();
    let data = setup.data();
    let digest = image.layers[0].strip_prefix("sha256:").unwrap();
    fs::write(data.join(format!("images/.rcompose/locks/blob-{digest}")), "").unwrap();
    let blob = &image.blobs[&image.layers[0]];
    fs::write(data.join(format!("images/.rcompose/tmp/{digest}.partial")), &blob[..100_000]).unwrap();
    // No compression: the diff id is the blob's digest.
    fs::create_dir_all(data.join(format!("layers/.tmp/{digest}/root/half"))).unwrap();
    let pulled = attempt(&setup, &server).unwrap();
    assert_eq!(setup.store.read_file(&pulled, "noise").unwrap().unwrap().len(), 300_000);
    assert_eq!(setup.store.read_file(&pulled, "half").ok().flatten(), None);
    assert_eq!(setup.leftovers(), [""; 0]);

    let spoiled = Setup::new();
    let partial = spoiled.data().join(format!("images/.rcompose/tmp/{digest}.partial"));
    fs::write(&partial, vec![0; 100_000]).unwrap();
    // They are found out, and fetched again.
    attempt(&spoiled, &server).unwrap();
    assert_eq!(spoiled.leftovers(), [""; 0]);
}
