//! A file mapped into memory and shared with whoever maps it later (`mmap(2)`, `MAP_SHARED`): what is stored in it
//! outlives a `kill -9` of this process at any instruction.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::Result;
use nix::errno::Errno;

/// A mapping that only one process uses at a time.
#[derive(Debug)]
pub struct Shared {
    start: NonNull<u8>,
    length: usize,
}

impl Shared {
    /// Maps the first `length` bytes of a file, which is made that long.
    ///
    /// The file must belong to the caller alone: nobody else may write to it or shorten it while it is mapped.
    pub fn map(file: impl AsFd, length: NonZeroUsize) -> Result<Self> {
        nix::unistd::ftruncate(&file, i64::try_from(length.get()).map_err(|_| Errno::EFBIG)?)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let fd = file.as_fd().as_raw_fd();
        // SAFETY: a new mapping at an address that the kernel chooses overlaps nothing; the file is long enough.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length.get(), protection, libc::MAP_SHARED, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        // Only pages that are touched are to cost memory: nothing is read ahead. Where the kernel does not listen, they do.
        // SAFETY: the range was mapped by the line above; this changes nothing about its content.
        unsafe { libc::madvise(start, length.get(), libc::MADV_RANDOM) };
        let start = NonNull::new(start.cast()).ok_or(Errno::ENOMEM)?;
        Ok(Self { start, length: length.get() })
    }

    /// Returns the word number `index`, eight bytes each.
    pub fn word(&self, index: usize) -> &AtomicU64 {
        assert!((index + 1) * 8 <= self.length, "the word is within the mapping");
        // SAFETY: within the mapping (checked), aligned since mappings start at a page, and words are only ever
        // accessed as atomics: `bytes` is kept away from them by its callers' layout.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(index * 8).cast()) }
    }

    /// Returns part of the mapping.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.length, "the range is within the mapping");
        // SAFETY: within the mapping (checked); it changes only through `&mut self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(range.start), range.len()) }
    }

    /// Returns part of the mapping, to change it.
    pub fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.length, "the range is within the mapping");
        // SAFETY: within the mapping (checked), and `&mut self` makes it the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(range.start), range.len()) }
    }

    /// Reads from `fd` straight into part of the mapping (`read(2)`).
    pub fn read(&mut self, fd: BorrowedFd<'_>, range: Range<usize>) -> Result<usize> {
        let buffer = self.bytes_mut(range);
        // SAFETY: `buffer` is valid for writes of its length for the duration of the call.
        let count = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        Errno::result(count).map(isize::cast_unsigned)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and no reference to it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}
