//! The limits of a container in the form of an OCI configuration, for other runtimes and tools; the engine's own are in
//! the cgroup plan.

use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxMemoryBuilder,
    LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder,
};

use super::cgroup::Plan;
use super::cgroup::devices::Rule;
use super::config::ContainerConfig;

/// Converts a container's limits and device rules.
pub(super) fn resources(config: &ContainerConfig, plan: &Plan) -> LinuxResources {
    let limits = &config.resources;
    let mut resources = LinuxResourcesBuilder::default();
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let mut memory = LinuxMemoryBuilder::default();
    if let Some(limit) = limits.memory.filter(|limit| *limit > 0) {
        let swap = limits.memory_swap.filter(|swap| *swap != 0).unwrap_or(signed(limit.saturating_mul(2)));
        memory = memory.limit(signed(limit)).swap(swap);
    }
    if let Some(reservation) = limits.memory_reservation {
        memory = memory.reservation(signed(reservation));
    }
    if let Some(swappiness) = limits.memory_swappiness {
        memory = memory.swappiness(swappiness);
    }
    if config.oom_kill_disable {
        memory = memory.disable_oom_killer(true);
    }
    if let Ok(memory) = memory.build() {
        resources = resources.memory(memory);
    }
    let mut cpu = LinuxCpuBuilder::default();
    match limits.nano_cpus {
        Some(cpus) if cpus > 0 => cpu = cpu.period(100_000_u64).quota(signed(cpus / 10_000)),
        _ => {
            if let Some(period) = limits.cpu_period {
                cpu = cpu.period(period);
            }
            if let Some(quota) = limits.cpu_quota {
                cpu = cpu.quota(quota);
            }
        }
    }
    if let Some(shares) = limits.cpu_shares {
        cpu = cpu.shares(shares);
    }
    if let Some(cpus) = &limits.cpuset_cpus {
        cpu = cpu.cpus(cpus.clone());
    }
    if let Some(mems) = &limits.cpuset_mems {
        cpu = cpu.mems(mems.clone());
    }
    if let Ok(cpu) = cpu.build() {
        resources = resources.cpu(cpu);
    }
    if let Some(Ok(pids)) = limits.pids.map(|limit| LinuxPidsBuilder::default().limit(limit).build()) {
        resources = resources.pids(pids);
    }
    resources = resources.devices(device_rules(config, plan));
    // Every field has a default, so there is nothing that can be missing.
    resources.build().unwrap_or_default()
}

fn device_rules(config: &ContainerConfig, plan: &Plan) -> Vec<LinuxDeviceCgroup> {
    let everything = |allow| LinuxDeviceCgroupBuilder::default().allow(allow).access("rwm").build();
    if config.privileged {
        return everything(true).into_iter().collect();
    }
    let from_files = plan.writes.iter().filter(|write| write.file == "devices.allow");
    let rules: Vec<Rule> = match &plan.devices {
        Some(rules) => rules.clone(),
        None => from_files.filter_map(|write| Rule::parse(&write.value)).collect(),
    };
    let allowed = rules.into_iter().filter_map(|rule| {
        let kind = match rule.kind {
            'b' => LinuxDeviceType::B,
            'c' => LinuxDeviceType::C,
            _ => LinuxDeviceType::A,
        };
        let mut entry = LinuxDeviceCgroupBuilder::default().allow(true).typ(kind).access(rule.access);
        if let Some(major) = rule.major {
            entry = entry.major(i64::from(major));
        }
        if let Some(minor) = rule.minor {
            entry = entry.minor(i64::from(minor));
        }
        entry.build().ok()
    });
    everything(false).into_iter().chain(allowed).collect()
}
