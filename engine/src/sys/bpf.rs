//! `bpf(2)`, as far as the device filter of a cgroup needs it.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::Result;
use nix::errno::Errno;

/// One instruction of an eBPF program (`struct bpf_insn`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    code: u8,
    /// Destination in the low, source in the high half.
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    /// `destination = *(u32 *)(base + offset)`
    pub fn load_word(destination: u8, base: u8, offset: i16) -> Self {
        Self { code: 0x61, registers: destination | base << 4, offset, immediate: 0 }
    }

    /// `destination = source`
    pub fn move_register(destination: u8, source: u8) -> Self {
        Self { code: 0xBF, registers: destination | source << 4, offset: 0, immediate: 0 }
    }

    /// `destination = value`
    pub fn move_immediate(destination: u8, value: u32) -> Self {
        Self { code: 0xB7, registers: destination, offset: 0, immediate: value.cast_signed() }
    }

    /// `destination &= value`, in 32 bits
    pub fn and(destination: u8, value: u32) -> Self {
        Self { code: 0x54, registers: destination, offset: 0, immediate: value.cast_signed() }
    }

    /// `destination >>= bits`, in 32 bits
    pub fn shift_right(destination: u8, bits: u32) -> Self {
        Self { code: 0x74, registers: destination, offset: 0, immediate: bits.cast_signed() }
    }

    /// `if register != value, skip this many instructions`
    pub fn jump_unless_equal(register: u8, value: u32, skip: i16) -> Self {
        Self { code: 0x55, registers: register, offset: skip, immediate: value.cast_signed() }
    }

    /// `if register == value, skip this many instructions`
    pub fn jump_if_equal(register: u8, value: u32, skip: i16) -> Self {
        Self { code: 0x15, registers: register, offset: skip, immediate: value.cast_signed() }
    }

    /// `return r0`
    pub fn exit() -> Self {
        Self { code: 0x95, registers: 0, offset: 0, immediate: 0 }
    }
}

/// Loads a program of type `BPF_PROG_TYPE_CGROUP_DEVICE` and attaches it to a group of version 2, in addition to those of
/// its ancestors.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: &[Instruction]) -> Result<()> {
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_ATTACH: libc::c_int = 8;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    const BPF_CGROUP_DEVICE: u32 = 6;
    const BPF_F_ALLOW_MULTI: u32 = 2;

    /// The first part of `union bpf_attr` for `BPF_PROG_LOAD`; what is not passed counts as zero.
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    /// The same for `BPF_PROG_ATTACH`.
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }

    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: `load` and everything it points to outlive the call; its size is passed with it.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) };
    let fd = RawFd::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just returned this descriptor (close-on-exec from birth) and nobody else knows it.
    let loaded = unsafe { OwnedFd::from_raw_fd(fd) };
    let attach = Attach {
        target: cgroup.as_raw_fd().cast_unsigned(),
        program: loaded.as_raw_fd().cast_unsigned(),
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: `attach` outlives the call and its size is passed with it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attach, size_of::<Attach>()) };
    Errno::result(result).map(drop)
}
