//! What things of a project are called.

use crate::compose::{Project, Service};

/// Returns what stands between the parts of a name.
pub fn separator(project: &Project) -> char {
    if project.compatibility { '_' } else { '-' }
}

/// Returns the name of a service's container with this number.
pub fn container(project: &Project, service: &Service, number: u32) -> String {
    let between = separator(project);
    let name = || format!("{}{between}{}{between}{number}", project.name, service.name);
    service.container_name.clone().unwrap_or_else(name)
}

/// Returns the name of the image of a service: what it says, or that of what is built for it.
pub fn image(project: &Project, service: &Service) -> String {
    service.image.clone().unwrap_or_else(|| format!("{}{}{}", project.name, separator(project), service.name))
}

/// Returns a container's name without the project's, which is how it signs its log lines.
pub fn short<'a>(project: &str, container: &'a str) -> &'a str {
    container.strip_prefix(project).and_then(|rest| rest.strip_prefix(['-', '_'])).unwrap_or(container)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_numbered_unless_they_have_a_name() {
        let mut web = Service { name: "web".into(), ..Service::default() };
        let shop = Project { name: "shop".into(), ..Project::default() };
        let old = Project { compatibility: true, ..shop.clone() };
        assert_eq!(container(&shop, &web, 2), "shop-web-2");
        assert_eq!((container(&old, &web, 2), image(&old, &web)), ("shop_web_2".to_owned(), "shop_web".to_owned()));
        web.container_name = Some("front".into());
        assert_eq!(container(&shop, &web, 1), "front");
    }

    #[test]
    fn only_the_projects_own_prefix_goes() {
        assert_eq!(short("shop", "shop-web-1"), "web-1");
        assert_eq!(short("shop", "shop_web_1"), "web_1");
        assert_eq!(short("shop", "shopping-web-1"), "shopping-web-1");
        assert_eq!(short("shop", "front"), "front");
    }
}
