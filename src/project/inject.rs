//! Variables that services get from what is outside of the files: providers and models.

use serde_json::{Map, Value as Json};
use sha2::{Digest as _, Sha256};

use crate::compose::Service;

/// Gives a service a variable, and makes it a part of its definition: a container that was made with another value is another
/// one.
pub fn variable(service: &mut Service, name: &str, value: &str) {
    service.environment.insert(name.to_owned(), Some(value.to_owned()));
    let Ok(mut definition) = serde_json::from_str::<Map<String, Json>>(&service.definition) else { return };
    let variables = definition.entry("environment").or_insert_with(|| Json::Object(Map::new()));
    if let Json::Object(variables) = variables {
        variables.insert(name.to_owned(), value.into());
    }
    service.definition = Json::Object(definition).to_string();
    service.config_hash = hex(&Sha256::digest(service.definition.as_bytes()));
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_value_is_another_definition() {
        let with = |value: &str| {
            let mut service = Service { definition: r#"{"image":"x"}"#.into(), ..Service::default() };
            variable(&mut service, "DB_URL", value);
            service
        };
        let service = with("a");
        assert_eq!(service.environment["DB_URL"].as_deref(), Some("a"));
        assert_eq!(service.definition, r#"{"image":"x","environment":{"DB_URL":"a"}}"#);
        assert_ne!(service.config_hash, with("b").config_hash);
        assert_eq!(service.config_hash, with("a").config_hash);
    }
}
