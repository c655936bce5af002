//! Limits of memory, processors, processes and block devices.

use std::path::PathBuf;

use rcompose_engine::container::cgroup::support::Asked;
use rcompose_engine::container::config::{Blkio, Resources};
use rcompose_engine::host::Host;

use crate::compose::Service;
use crate::compose::model::{BlkioRate, BlkioWeight};

/// Says what is wrong with the limits of block devices, in Docker's words where it has some.
pub(super) fn blkio_fault(service: &Service) -> Option<String> {
    let blkio = service.blkio_config.as_ref()?;
    let weights = blkio.weight_device.iter().map(|device| device.weight).chain([blkio.weight]);
    if weights.into_iter().any(|weight| weight > 0 && !(10..=1000).contains(&weight)) {
        return Some("a weight is 10 to 1000".to_owned());
    }
    let rates = [&blkio.device_read_bps, &blkio.device_write_bps, &blkio.device_read_iops, &blkio.device_write_iops];
    let limited = rates.into_iter().flatten().map(|rate| &rate.path);
    let mut devices = limited.chain(blkio.weight_device.iter().map(|device| &device.path));
    devices.find_map(|path| std::fs::metadata(path).err().map(|error| format!("device {path}: {error}")))
}

/// Returns a sentence for each limit of the service that the kernel of this host cannot keep.
pub fn discarded(service: &Service) -> Vec<String> {
    let mut asked = Asked { resources: resources(service), oom_kill_disable: service.oom_kill_disable };
    if asked == Asked::default() {
        return Vec::new();
    }
    // Where not even this is known nothing can be started, and the engine says why.
    let Ok(host) = Host::detect() else { return Vec::new() };
    let said = asked.discard(&host.cgroups).into_iter();
    said.map(|sentence| format!("service \"{}\": {sentence}", service.name)).collect()
}

pub(super) fn resources(service: &Service) -> Resources {
    let reserved = service
        .deploy
        .as_ref()
        .and_then(|deploy| deploy.resources.reservations.as_ref())
        .and_then(|reservations| positive(reservations.memory));
    Resources {
        memory: service.memory_limit().and_then(positive),
        memory_reservation: positive(service.mem_reservation).or(reserved),
        memory_swap: (service.memswap_limit != 0).then_some(service.memswap_limit),
        memory_swappiness: positive(service.mem_swappiness),
        nano_cpus: service.cpu_limit().map(nano_cpus),
        cpu_shares: positive(service.cpu_shares),
        cpu_period: positive(service.cpu_period),
        cpu_quota: (service.cpu_quota != 0).then_some(service.cpu_quota),
        cpu_rt_period: positive(service.cpu_rt_period),
        cpu_rt_runtime: (service.cpu_rt_runtime != 0).then_some(service.cpu_rt_runtime),
        cpuset_cpus: service.cpuset.clone(),
        cpuset_mems: None,
        pids: service.process_limit(),
        blkio: blkio(service),
    }
}

/// Returns the number if it says something: 0 and less mean that nothing was asked for.
pub(super) fn positive(number: i64) -> Option<u64> {
    u64::try_from(number).ok().filter(|number| *number > 0)
}

/// Returns billionths of a processor. A single-precision number has seven digits, and no more of them count.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is positive, and far too large is the most"
)]
fn nano_cpus(cpus: f32) -> u64 {
    (f64::from(cpus) * 1e6).round() as u64 * 1000
}

fn blkio(service: &Service) -> Blkio {
    let Some(blkio) = &service.blkio_config else { return Blkio::default() };
    let rates = |rates: &[BlkioRate]| {
        rates.iter().map(|rate| (PathBuf::from(&rate.path), positive(rate.rate).unwrap_or(0))).collect()
    };
    let weight = |device: &BlkioWeight| (PathBuf::from(&device.path), device.weight);
    Blkio {
        weight: (blkio.weight > 0).then_some(blkio.weight),
        weight_device: blkio.weight_device.iter().map(weight).collect(),
        read_bps: rates(&blkio.device_read_bps),
        write_bps: rates(&blkio.device_write_bps),
        read_iops: rates(&blkio.device_read_iops),
        write_iops: rates(&blkio.device_write_iops),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::model;

    #[test]
    fn a_tenth_of_a_processor_is_a_round_number() {
        assert_eq!(nano_cpus(0.1), 100_000_000);
        assert_eq!(nano_cpus(1.5), 1_500_000_000);
    }

    #[test]
    fn limits_come_from_either_place() {
        let limits = model::ResourceLimits { cpus: 0.5, memory: 1 << 20, pids: 7 };
        let deploy = model::Deploy {
            resources: model::Resources { limits: Some(limits), reservations: None },
            ..model::Deploy::default()
        };
        let made = resources(&Service { deploy: Some(deploy), ..Service::default() });
        assert_eq!((made.memory, made.nano_cpus, made.pids), (Some(1 << 20), Some(500_000_000), Some(7)));
        assert_eq!(resources(&Service::default()), Resources::default());
    }
}
