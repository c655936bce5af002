//! The limits of a container in the form of an OCI configuration, from which the cgroup plan is made.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPidsBuilder, LinuxResources, LinuxThrottleDevice,
    LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder,
};

use super::cgroup::devices::{Rule, nothing};
use super::config::{Blkio, ContainerConfig};

/// The period of the CPU quota that `cpus` is expressed in, as Docker's, in microseconds.
const PERIOD: u64 = 100_000;

/// Converts a container's limits, and the rules for its devices; a privileged one may use all.
pub(super) fn resources(config: &ContainerConfig, rules: &[Rule]) -> LinuxResources {
    let limits = &config.resources;
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let mut memory = LinuxMemory::default();
    if let Some(limit) = limits.memory.filter(|limit| *limit > 0) {
        // Twice the memory unless told, as Docker.
        let swap = limits.memory_swap.filter(|swap| *swap != 0).unwrap_or(signed(limit.saturating_mul(2)));
        memory.set_limit(Some(signed(limit))).set_swap(Some(swap));
    }
    memory.set_reservation(limits.memory_reservation.filter(|bytes| *bytes > 0).map(signed));
    memory.set_swappiness(limits.memory_swappiness);
    memory.set_disable_oom_killer(config.oom_kill_disable.then_some(true));
    let mut cpu = LinuxCpu::default();
    match limits.nano_cpus {
        Some(cpus) if cpus > 0 => {
            cpu.set_period(Some(PERIOD)).set_quota(Some(signed(cpus / (1_000_000_000 / PERIOD))));
        }
        _ => {
            cpu.set_period(limits.cpu_period).set_quota(limits.cpu_quota);
        }
    }
    cpu.set_shares(limits.cpu_shares).set_cpus(limits.cpuset_cpus.clone()).set_mems(limits.cpuset_mems.clone());
    cpu.set_realtime_period(limits.cpu_rt_period).set_realtime_runtime(limits.cpu_rt_runtime);
    let mut resources = LinuxResources::default();
    resources.set_memory(Some(memory).filter(|memory| *memory != LinuxMemory::default()));
    resources.set_cpu(Some(cpu).filter(|cpu| *cpu != LinuxCpu::default()));
    resources.set_pids(limits.pids.and_then(|limit| LinuxPidsBuilder::default().limit(limit).build().ok()));
    resources.set_block_io(Some(block_io(&limits.blkio)).filter(|io| *io != LinuxBlockIo::default()));
    let all = [Rule { allow: true, ..nothing() }];
    let denied = [nothing()];
    let rules = if config.privileged { all.iter().chain(&[]) } else { denied.iter().chain(rules) };
    resources.set_devices(Some(rules.map(Rule::to_oci).collect()));
    resources
}

fn block_io(blkio: &Blkio) -> LinuxBlockIo {
    let throttle = |limits: &[(PathBuf, u64)]| {
        let limits = limits.iter().filter_map(|(device, rate)| {
            let (major, minor) = numbers(device)?;
            LinuxThrottleDeviceBuilder::default().major(major).minor(minor).rate(*rate).build().ok()
        });
        Some(limits.collect::<Vec<LinuxThrottleDevice>>()).filter(|limits| !limits.is_empty())
    };
    let weights = blkio.weight_device.iter().filter_map(|(device, weight)| {
        let (major, minor) = numbers(device)?;
        LinuxWeightDeviceBuilder::default().major(major).minor(minor).weight(*weight).build().ok()
    });
    let mut io = LinuxBlockIo::default();
    io.set_weight(blkio.weight);
    io.set_weight_device(Some(weights.collect::<Vec<_>>()).filter(|weights| !weights.is_empty()));
    io.set_throttle_read_bps_device(throttle(&blkio.read_bps));
    io.set_throttle_write_bps_device(throttle(&blkio.write_bps));
    io.set_throttle_read_iops_device(throttle(&blkio.read_iops));
    io.set_throttle_write_iops_device(throttle(&blkio.write_iops));
    io
}

/// Returns the numbers of a block device of the host.
fn numbers(device: &Path) -> Option<(i64, i64)> {
    let number = std::fs::metadata(device).ok()?.rdev();
    Some((libc::major(number).into(), libc::minor(number).into()))
}
