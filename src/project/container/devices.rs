//! `devices`, `gpus`, `deploy.resources.reservations.devices` and `runtime` → devices of the host, by path or by name.

use std::path::PathBuf;

use rcompose_engine::container::cdi;
use rcompose_engine::container::config::Device;

use super::{Blueprint, InvalidAttribute};
use crate::compose::model::{self, DeviceRequest};

/// The kind of device that `gpus` means where no driver is named.
const GPU: &str = "nvidia.com/gpu";

/// Names of the runtime that everybody has; ours takes its place.
const RUNTIMES: [&str; 4] = ["", "runc", "crun", "io.containerd.runc.v2"];

impl Blueprint<'_> {
    /// Returns the devices that are given by their path.
    pub(super) fn devices(&self) -> Vec<Device> {
        let device = |device: &model::Device| Device {
            source: PathBuf::from(&device.source),
            target: PathBuf::from(if device.target.is_empty() { &device.source } else { &device.target }),
            permissions: if device.permissions.is_empty() { "rwm".to_owned() } else { device.permissions.clone() },
        };
        self.service.devices.iter().filter(|device| device.source.starts_with('/')).map(device).collect()
    }

    /// Returns the devices that are given by their CDI name.
    pub(super) fn cdi_devices(&self) -> Result<Vec<String>, InvalidAttribute> {
        let mut names = Vec::new();
        for device in self.service.devices.iter().filter(|device| !device.source.starts_with('/')) {
            if !cdi::is_name(&device.source) {
                let reason = format!(
                    "`{}` is neither the absolute path of a device nor a CDI name such as vendor.com/class=name",
                    device.source
                );
                return Err(self.invalid("devices", reason));
            }
            names.push(device.source.clone());
        }
        let reservations = self.service.deploy.as_ref().and_then(|deploy| deploy.resources.reservations.as_ref());
        for request in reservations.into_iter().flat_map(|reservations| &reservations.devices) {
            names.extend(self.requested("deploy.resources.reservations.devices", request)?);
        }
        for request in &self.service.gpus {
            names.extend(self.requested("gpus", request)?);
        }
        names.extend(self.of_runtime()?);
        let mut unique = Vec::with_capacity(names.len());
        for name in names {
            if !unique.contains(&name) {
                unique.push(name);
            }
        }
        Ok(unique)
    }

    fn requested(&self, attribute: &'static str, request: &DeviceRequest) -> Result<Vec<String>, InvalidAttribute> {
        let driver = request.driver.as_deref().unwrap_or_default();
        let gpu = attribute == "gpus" || request.capabilities.iter().any(|capability| capability == "gpu");
        match driver {
            "cdi" => Ok(request.device_ids.clone()),
            "" | "nvidia" if gpu => Ok(match usize::try_from(request.count) {
                _ if !request.device_ids.is_empty() => {
                    request.device_ids.iter().map(|id| format!("{GPU}={id}")).collect()
                }
                Ok(count @ 1..) => (0..count).map(|index| format!("{GPU}={index}")).collect(),
                _ => vec![format!("{GPU}=all")],
            }),
            _ => Err(self.invalid(
                attribute,
                format!(
                    "could not select device driver \"{driver}\" with capabilities: [[{}]]",
                    request.capabilities.join(" ")
                ),
            )),
        }
    }

    /// Returns the devices that come with the runtime: NVIDIA's is ours with the devices that a variable names.
    fn of_runtime(&self) -> Result<Vec<String>, InvalidAttribute> {
        match self.service.runtime.as_deref().unwrap_or_default() {
            "nvidia" => {
                let visible = self.service.environment.get("NVIDIA_VISIBLE_DEVICES").and_then(Option::as_deref);
                Ok(match visible.unwrap_or("all") {
                    "" | "void" | "none" => Vec::new(),
                    devices => devices.split(',').map(|id| format!("{GPU}={id}")).collect(),
                })
            }
            runtime if RUNTIMES.contains(&runtime) => Ok(Vec::new()),
            runtime => Err(self.invalid("runtime", format!("unknown or invalid runtime name: {runtime}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::made;
    use super::*;
    use crate::compose::model::Service;

    fn names(service: Service) -> Result<Vec<String>, String> {
        made(service).map(|made| made.config.cdi_devices).map_err(|error| error.to_string())
    }

    fn gpus(request: DeviceRequest) -> Result<Vec<String>, String> {
        names(Service { gpus: vec![request], ..Service::default() })
    }

    #[test]
    fn gpus_are_named() {
        let all = DeviceRequest { count: -1, ..DeviceRequest::default() };
        assert_eq!(gpus(all.clone()).unwrap(), ["nvidia.com/gpu=all"]);
        assert_eq!(gpus(DeviceRequest { count: 2, ..all.clone() }).unwrap(), ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]);
        let ids = vec!["3".to_owned()];
        assert_eq!(gpus(DeviceRequest { device_ids: ids, ..all.clone() }).unwrap(), ["nvidia.com/gpu=3"]);
        let own = vec!["example.com/npu=x".to_owned()];
        let own = DeviceRequest { driver: Some("cdi".into()), device_ids: own, ..all.clone() };
        assert_eq!(gpus(own).unwrap(), ["example.com/npu=x"]);
        assert!(gpus(DeviceRequest { driver: Some("amd".into()), ..all }).unwrap_err().contains("\"amd\""));
    }

    #[test]
    fn devices_are_paths_or_names() {
        let device = |source: &str| Service {
            devices: vec![model::Device { source: source.into(), ..model::Device::default() }],
            ..Service::default()
        };
        assert_eq!(names(device("example.com/npu=x")).unwrap(), ["example.com/npu=x"]);
        assert!(names(device("/dev/null")).unwrap().is_empty());
        assert!(names(device("null")).unwrap_err().contains("`null`"));
    }

    #[test]
    fn an_unknown_runtime_is_an_error() {
        let runtime = |name: &str| names(Service { runtime: Some(name.into()), ..Service::default() });
        assert_eq!(runtime("runc"), Ok(Vec::new()));
        assert_eq!(runtime("nvidia"), Ok(vec!["nvidia.com/gpu=all".to_owned()]));
        assert!(runtime("kata").unwrap_err().contains("unknown or invalid runtime name: kata"));
    }
}
