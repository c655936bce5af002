//! `capset(2)`, the bounding and the ambient set (`capabilities(7)`).

use nix::Result;
use nix::errno::Errno;

/// A set of capabilities, one bit per number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Set(pub u64);

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_3: u32 = 0x2008_0522;

/// Sets the effective, permitted and inheritable capabilities of this thread.
pub fn capset(effective: Set, permitted: Set, inheritable: Set) -> Result<()> {
    let header = Header { version: VERSION_3, pid: 0 };
    let word = |set: Set, index: u32| u32::try_from((set.0 >> (32 * index)) & 0xFFFF_FFFF).unwrap_or_default();
    let data: [Data; 2] = std::array::from_fn(|index| {
        let index = u32::try_from(index).unwrap_or_default();
        Data {
            effective: word(effective, index),
            permitted: word(permitted, index),
            inheritable: word(inheritable, index),
        }
    });
    // SAFETY: version 3 takes a header and two data structures, which outlive the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// Returns the permitted capabilities of this thread (`capget(2)`).
pub fn permitted() -> Result<Set> {
    let header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 takes a header and two data structures, which outlive the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) })?;
    Ok(Set(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32))
}

/// Removes everything from the bounding set but `keep`.
pub fn limit_bounding(keep: Set) -> Result<()> {
    for capability in 0..64 {
        if keep.0 & (1 << capability) != 0 {
            continue;
        }
        // SAFETY: all arguments are plain numbers.
        match Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }) {
            Ok(_) => {}
            // The first number this kernel does not know: all are done.
            Err(Errno::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Empties the ambient set, then raises these capabilities in it.
pub fn set_ambient(ambient: Set) -> Result<()> {
    // SAFETY: all arguments are plain numbers.
    Errno::result(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) })?;
    for capability in (0..64).filter(|capability| ambient.0 & (1 << capability) != 0) {
        // SAFETY: all arguments are plain numbers.
        Errno::result(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0) })?;
    }
    Ok(())
}
