//! Where images and containers are kept.

use std::path::Path;

use nix::sys::statvfs::statvfs;
use rcompose_engine::root::Root;

use super::Finding;
use crate::ui::human;

/// Less free space than this is soon used up by an image, in bytes.
const LITTLE: u64 = 2 << 30;
/// Less free inodes than this are soon used up by an image.
const FEW: u64 = 50_000;
const SUBJECT: &str = "disk";

pub(super) fn examine(root: &Root) -> Vec<Finding> {
    // It is made when something is kept in it.
    let place = root.data().ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned();
    let found = match statvfs(&place) {
        Ok(found) => found,
        Err(errno) => {
            let says = format!("cannot look at {}: {errno}", place.display());
            return vec![Finding::bad(SUBJECT, says, "mount it")];
        }
    };
    let free = found.blocks_available().saturating_mul(found.fragment_size());
    let says = format!("{} are free in {}", human::size(free), place.display());
    // Some file systems have as many inodes as they need, and count none.
    let inodes = if found.files() == 0 { u64::MAX } else { found.files_available() };
    let cure = "rcompose system prune, or --root DIR on a larger disk";
    vec![if free < LITTLE {
        Finding::doubtful(SUBJECT, says, cure)
    } else if inodes < FEW {
        Finding::doubtful(SUBJECT, format!("{says}, for {inodes} files"), cure)
    } else {
        Finding::good(SUBJECT, says)
    }]
}
