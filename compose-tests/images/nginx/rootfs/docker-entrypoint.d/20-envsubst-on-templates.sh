#!/bin/sh
# Fills /etc/nginx/templates/**/*.template with the variables that are set, into /etc/nginx/conf.d.
set -eu

templates=${NGINX_ENVSUBST_TEMPLATE_DIR:-/etc/nginx/templates}
suffix=${NGINX_ENVSUBST_TEMPLATE_SUFFIX:-.template}
output=${NGINX_ENVSUBST_OUTPUT_DIR:-/etc/nginx/conf.d}
[ -d "$templates" ] || exit 0

# Only names that are set: nginx has variables of its own ($host, $uri), which must stay.
names=$(env | sed -n "s/^\(${NGINX_ENVSUBST_FILTER:-[A-Za-z_][A-Za-z0-9_]*}\)=.*/\${\1}/p" | tr '\n' ' ')
find -L "$templates" -type f -name "*$suffix" | while read -r template; do
	relative=${template#"$templates/"}
	target=$output/${relative%"$suffix"}
	mkdir -p "$(dirname "$target")"
	printf '%s: %s -> %s\n' "$0" "$template" "$target"
	envsubst "$names" <"$template" >"$target"
done
