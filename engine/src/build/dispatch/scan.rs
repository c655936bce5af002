//! What an SBOM tells of beside the image: the build's own context, and stages that the image is made with
//! (`BUILDKIT_SBOM_SCAN_CONTEXT` and `BUILDKIT_SBOM_SCAN_STAGE`, as BuildKit reads them).

use super::environment::Environment;
use crate::build::dockerfile::parse_bool;
use crate::build::dockerfile::shell::Variables as _;

const CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";
const STAGE: &str = "BUILDKIT_SBOM_SCAN_STAGE";

/// The two arguments, where an `ARG` has declared them. Commands do not see them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    context: Option<String>,
    stage: Option<String>,
}

impl Scan {
    /// Returns what is declared before the first stage.
    pub(crate) fn of(global: &Environment) -> Self {
        let value = |name: &str| global.get(name).map(str::to_owned);
        Self { context: value(CONTEXT), stage: value(STAGE) }
    }

    /// Takes up an argument. Returns whether it is one of the two.
    pub(crate) fn take(&mut self, name: &str, value: &str) -> bool {
        let place = match name {
            CONTEXT => &mut self.context,
            STAGE => &mut self.stage,
            _ => return false,
        };
        *place = Some(value.to_owned());
        true
    }

    /// Returns the value of one of the two.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        match name {
            CONTEXT => self.context.as_deref(),
            STAGE => self.stage.as_deref(),
            _ => None,
        }
    }

    /// Returns whether the context is told of where this stage is the target.
    pub(crate) fn has_context(&self, stage: &str) -> bool {
        is_on(self.context.as_deref(), stage)
    }

    /// Returns whether this stage is told of.
    pub(crate) fn has_stage(&self, stage: &str) -> bool {
        is_on(self.stage.as_deref(), stage)
    }
}

/// Such an argument is true or false, or a list of stages.
fn is_on(value: Option<&str>, stage: &str) -> bool {
    let named = |value: &str| value.split(',').any(|name| name == stage);
    value.is_some_and(|value| parse_bool(value).unwrap_or_else(|| named(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_a_truth_or_a_list_of_stages() {
        for (value, made, other) in [
            ("true", true, true),
            ("0", false, false),
            ("made", true, false),
            ("x,other", false, true),
            ("", false, false),
        ] {
            let mut scan = Scan::default();
            assert!(scan.take(STAGE, value) && !scan.take("STAGE", "true") && !scan.has_context("made"));
            assert_eq!((scan.has_stage("made"), scan.has_stage("other")), (made, other), "{value}");
        }
        let mut global = Environment::default();
        global.set(CONTEXT, "made");
        assert!(Scan::of(&global).has_context("made") && !Scan::of(&global).has_stage("made"));
    }
}
