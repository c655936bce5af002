//! `security_opt` → what the engine reads: profiles are files of the project's folder, which the engine does not know.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::{Blueprint, InvalidAttribute};

/// The largest seccomp profile that is read, in bytes.
const LIMIT: u64 = 1 << 20;

impl Blueprint<'_> {
    pub(super) fn security_opt(&self) -> Result<Vec<String>, InvalidAttribute> {
        self.service.security_opt.iter().map(|option| self.with_content(option)).collect()
    }

    /// Returns the option with the content of the file in place of its path.
    fn with_content(&self, option: &str) -> Result<String, InvalidAttribute> {
        let separator = if option.contains('=') { '=' } else { ':' };
        let Some(("seccomp", path)) = option.split_once(separator) else { return Ok(option.to_owned()) };
        if matches!(path, "" | "unconfined" | "builtin" | "default") || path.trim_start().starts_with('{') {
            return Ok(option.to_owned());
        }
        let failed =
            |reason: String| self.invalid("security_opt", format!("opening seccomp profile ({path}) failed: {reason}"));
        let text = read(&self.project.working_dir.join(path)).map_err(|error| failed(error.to_string()))?;
        let profile: serde_json::Value = serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
        Ok(format!("seccomp={profile}"))
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LIMIT).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::tests::made_in;
    use crate::compose::model::{Project, Service};

    #[test]
    fn a_profile_is_a_file_of_the_projects_folder() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("profile.json"), "{ \"defaultAction\":\n\"SCMP_ACT_ALLOW\" }").unwrap();
        let made = |option: &str| {
            let project = Project { working_dir: folder.path().to_owned(), ..Project::default() };
            made_in(project, Service { security_opt: vec![option.to_owned()], ..Service::default() })
                .map(|made| made.config.security_opt)
        };
        assert_eq!(made("seccomp:./profile.json").unwrap(), [r#"seccomp={"defaultAction":"SCMP_ACT_ALLOW"}"#]);
        assert_eq!(made("seccomp=unconfined").unwrap(), ["seccomp=unconfined"]);
        let error = made("seccomp=missing.json").unwrap_err().to_string();
        assert!(error.contains("opening seccomp profile (missing.json) failed"), "{error}");
    }
}
