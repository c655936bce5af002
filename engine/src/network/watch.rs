//! Notices what others change: registries of endpoints by other supervisors, the packet filter and the links by anybody.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, Inotify};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::BRIDGE_PREFIX;
use super::netlink::{attributes, messages};
use super::{NetworkError, nft, worker};
use crate::host;
use crate::id::Id;
use crate::sys::net::netlink_subscribe;
use crate::sys::readiness;

/// A reload of a firewall is many transactions; it is looked at when it has been quiet for this long.
const QUIET: Duration = Duration::from_millis(100);

/// Starts the tasks, on the current runtime.
pub(super) fn start(
    worker: &worker::Handle,
    registries: &Path,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<(), NetworkError> {
    let failed = |what| move |source| NetworkError::Watch { what, source };
    let inotify = inotify(registries).map_err(failed("the registries of endpoints"))?;
    let filter = subscribe(SockProtocol::NetlinkNetFilter, 7).map_err(failed("the packet filter"))?;
    let links = subscribe(SockProtocol::NetlinkRoute, 1).map_err(failed("links"))?;
    let token = stop.clone();
    let handle = worker.clone();
    tasks.spawn(async move { token.run_until_cancelled(watch_registries(inotify, handle)).await });
    let token = stop.clone();
    let handle = worker.clone();
    tasks.spawn(async move { token.run_until_cancelled(watch_kernel(filter, links, handle)).await });
    Ok(())
}

fn inotify(directory: &Path) -> io::Result<(Inotify, AsyncFd<OwnedFd>)> {
    std::fs::create_dir_all(directory)?;
    let inotify = host::inotify()?;
    inotify.add_watch(directory, AddWatchFlags::IN_MOVED_TO)?;
    let readable = readiness::watch(inotify.as_fd().try_clone_to_owned()?)?;
    Ok((inotify, readable))
}

fn subscribe(protocol: SockProtocol, group: i32) -> io::Result<AsyncFd<OwnedFd>> {
    readiness::watch(subscribed(protocol, &[group])?)
}

/// Opens a netlink socket of the calling thread's network namespace that hears what these groups are told.
pub(super) fn subscribed(protocol: SockProtocol, groups: &[i32]) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    for group in groups {
        netlink_subscribe(&fd, *group)?;
    }
    Ok(fd)
}

async fn watch_registries((inotify, readable): (Inotify, AsyncFd<OwnedFd>), worker: worker::Handle) {
    while let Ok(mut ready) = readable.readable().await {
        let Ok(events) = ready.try_io(|_| inotify.read_events().map_err(io::Error::from)) else { continue };
        for event in events.into_iter().flatten() {
            let name = event.name.as_deref().map(Path::new);
            let Some(id) = name.filter(|name| name.extension().is_some_and(|e| e == "json")) else { continue };
            let Some(id) = id.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse::<Id>().ok()) else { continue };
            let refresh = move |worker: &mut worker::Worker| {
                if let Err(error) = worker.refresh(&id) {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot read who is on a network");
                }
            };
            if worker.send(refresh).is_err() {
                return;
            }
        }
    }
}

async fn watch_kernel(filter: AsyncFd<OwnedFd>, links: AsyncFd<OwnedFd>, worker: worker::Handle) {
    loop {
        let mut lost = Vec::new();
        let broken = tokio::select! {
            seen = news(&filter, foreign_change) => seen,
            seen = news(&links, |datagram| {
                lost = lost_bridges(datagram);
                !lost.is_empty()
            }) => seen,
        };
        if !broken {
            continue;
        }
        // All projects of the host hear of every network that goes. Only those that are on it have something to do.
        if !lost.is_empty() {
            match worker.run(move |worker| Ok(worker.uses_any_of(&lost))).await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(_) => return,
            }
        }
        // More of it may be on the way, and all of it is looked at once: wait until nothing came for a while.
        loop {
            let more = async {
                tokio::select! {
                    _ = news(&filter, |_| true) => {}
                    _ = news(&links, |_| true) => {}
                }
            };
            if timeout(QUIET, more).await.is_err() {
                break;
            }
        }
        if let Err(error) = worker.run(worker::Worker::repair).await {
            if matches!(error, NetworkError::Gone) {
                return;
            }
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot repair networks");
        }
    }
}

/// Reads one datagram and says whether it is of interest. One that was lost may have been.
pub(super) async fn news(fd: &AsyncFd<OwnedFd>, mut interesting: impl FnMut(&[u8]) -> bool) -> bool {
    let Ok(mut ready) = fd.readable().await else { return false };
    let mut buffer = vec![0; 32 << 10];
    let received = ready.try_io(|fd| {
        let length = recv(fd.get_ref().as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        Ok(length)
    });
    match received {
        Ok(Ok(length)) => interesting(&buffer[..length]),
        // ENOBUFS: more came than the socket could hold.
        Ok(Err(_)) => true,
        Err(_would_block) => false,
    }
}

/// Returns whether a datagram announces rules that none of our supervisors made: `NFTA_GEN_PROC_NAME` is the name of the
/// thread that did.
fn foreign_change(datagram: &[u8]) -> bool {
    const MAKER: u16 = 3;
    messages(datagram).filter(|(kind, ..)| *kind == nft::SUBSYSTEM_GENERATION).any(|(_, _, _, payload)| {
        let maker = attributes(payload.get(4..).unwrap_or_default()).find(|(kind, _)| *kind == MAKER);
        maker.is_none_or(|(_, name)| name.strip_suffix(b"\0").unwrap_or(name) != worker::THREAD.as_bytes())
    })
}

/// Returns the bridges of ours whose end a datagram announces.
fn lost_bridges(datagram: &[u8]) -> Vec<String> {
    const DELETE_LINK: u16 = 17;
    const NAME: u16 = 3;
    let deleted = messages(datagram).filter(|(kind, ..)| *kind == DELETE_LINK);
    let attributes = deleted.flat_map(|(_, _, _, payload)| attributes(payload.get(16..).unwrap_or_default()));
    let names = attributes.filter(|(kind, _)| *kind == NAME);
    let names = names.filter_map(|(_, name)| std::str::from_utf8(name.strip_suffix(b"\0").unwrap_or(name)).ok());
    // Ports of bridges (`rcv…`) come and go with containers.
    let ours = names.filter(|name| name.strip_prefix(BRIDGE_PREFIX).is_some_and(|rest| !rest.starts_with('v')));
    ours.map(str::to_owned).collect()
}
