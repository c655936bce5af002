//! What things of a project are called.

use crate::compose::Service;

/// Returns the name of a service's container with this number.
pub fn container(project: &str, service: &Service, number: u32) -> String {
    service.container_name.clone().unwrap_or_else(|| format!("{project}-{}-{number}", service.name))
}

/// Returns the name of the image of a service: what it says, or that of what is built for it.
pub fn image(project: &str, service: &Service) -> String {
    service.image.clone().unwrap_or_else(|| format!("{project}-{}", service.name))
}

/// Returns a container's name without the project's, which is how it signs its log lines.
pub fn short<'a>(project: &str, container: &'a str) -> &'a str {
    container.strip_prefix(project).and_then(|rest| rest.strip_prefix('-')).unwrap_or(container)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_numbered_unless_they_have_a_name() {
        let mut web = Service { name: "web".into(), ..Service::default() };
        assert_eq!(container("shop", &web, 2), "shop-web-2");
        web.container_name = Some("front".into());
        assert_eq!(container("shop", &web, 1), "front");
    }

    #[test]
    fn only_the_projects_own_prefix_goes() {
        assert_eq!(short("shop", "shop-web-1"), "web-1");
        assert_eq!(short("shop", "shopping-web-1"), "shopping-web-1");
        assert_eq!(short("shop", "front"), "front");
    }
}
