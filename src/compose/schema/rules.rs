//! The rules themselves, in the order of the specification's schema.

use super::{BOOL, INTEGER, Keys, NULL, NUMBER, Object, Rule, STRING};

const TEXT: Rule = Rule::Scalar(STRING);
const FLAG: Rule = Rule::Scalar(BOOL | STRING);
const WHOLE: Rule = Rule::Scalar(INTEGER | STRING);
const AMOUNT: Rule = Rule::Scalar(NUMBER | STRING);
const WORDS: Rule = Rule::List { item: &TEXT, unique: true };
const TEXTS: Rule = Rule::List { item: &TEXT, unique: false };
const WORD_OR_WORDS: Rule = Rule::Either(&[TEXT, WORDS]);
const LIST_OR_MAP: Rule = Rule::Either(&[
    Rule::Dictionary { keys: Keys::Filled, strict: true, value: &Rule::Scalar(STRING | NUMBER | BOOL | NULL) },
    WORDS,
]);
const COMMAND: Rule = Rule::Either(&[Rule::Scalar(NULL), TEXT, TEXTS]);
const EXTRA_HOSTS: Rule =
    Rule::Either(&[Rule::Dictionary { keys: Keys::Filled, strict: true, value: &Rule::Either(&[TEXT, TEXTS]) }, WORDS]);
const OPTIONS: Rule = Rule::Dictionary { keys: Keys::Filled, strict: false, value: &AMOUNT };

const fn object(name: &'static str, keys: &'static [(&'static str, Rule)]) -> Object {
    Object { name, keys, required: &[], extensions: true, strict: true }
}

/// The whole project.
pub(super) static PROJECT: Rule = Rule::Object(PROJECT_OBJECT);

/// The top level.
pub(super) static PROJECT_OBJECT: &Object = &object(
    "a project",
    &[
        ("version", TEXT),
        ("name", TEXT),
        ("include", Rule::List { item: &Rule::Either(&[TEXT, Rule::Object(&INCLUDE)]), unique: false }),
        ("services", Rule::Dictionary { keys: Keys::Name, strict: true, value: &Rule::Object(&SERVICE) }),
        ("models", Rule::Dictionary { keys: Keys::Name, strict: false, value: &Rule::Object(&MODEL) }),
        (
            "networks",
            Rule::Dictionary {
                keys: Keys::Name,
                strict: false,
                value: &Rule::Either(&[Rule::Scalar(NULL), Rule::Object(&NETWORK)]),
            },
        ),
        (
            "volumes",
            Rule::Dictionary {
                keys: Keys::Name,
                strict: true,
                value: &Rule::Either(&[Rule::Scalar(NULL), Rule::Object(&VOLUME)]),
            },
        ),
        ("secrets", Rule::Dictionary { keys: Keys::Name, strict: true, value: &Rule::Object(&SECRET) }),
        ("configs", Rule::Dictionary { keys: Keys::Name, strict: true, value: &Rule::Object(&CONFIG) }),
    ],
);

static INCLUDE: Object = Object {
    extensions: false,
    ..object("an include", &[("path", WORD_OR_WORDS), ("env_file", WORD_OR_WORDS), ("project_directory", TEXT)])
};

/// A service.
pub(super) static SERVICE: Object = object(
    "a service",
    &[
        ("develop", Rule::Either(&[Rule::Scalar(NULL), Rule::Object(&DEVELOP)])),
        ("deploy", Rule::Either(&[Rule::Scalar(NULL), Rule::Object(&DEPLOY)])),
        ("annotations", LIST_OR_MAP),
        ("attach", FLAG),
        ("build", Rule::Either(&[TEXT, Rule::Object(&BUILD)])),
        ("blkio_config", Rule::Object(&BLKIO)),
        ("cap_add", WORDS),
        ("cap_drop", WORDS),
        ("cgroup", Rule::Words(&["host", "private"])),
        ("cgroup_parent", TEXT),
        ("command", COMMAND),
        ("configs", FILE_MOUNTS),
        ("container_name", Rule::Text(is_container_name, "a name of two or more letters, digits, `_`, `.` and `-`")),
        ("cpu_count", Rule::Bounded(0, i64::MAX)),
        ("cpu_percent", Rule::Bounded(0, 100)),
        ("cpu_shares", AMOUNT),
        ("cpu_quota", AMOUNT),
        ("cpu_period", AMOUNT),
        ("cpu_rt_period", AMOUNT),
        ("cpu_rt_runtime", AMOUNT),
        ("cpus", AMOUNT),
        ("cpuset", TEXT),
        ("credential_spec", Rule::Object(&CREDENTIAL_SPEC)),
        (
            "depends_on",
            Rule::Either(&[
                WORDS,
                Rule::Dictionary { keys: Keys::Name, strict: true, value: &Rule::Object(&DEPENDENCY) },
            ]),
        ),
        ("device_cgroup_rules", WORDS),
        ("devices", Rule::List { item: &Rule::Either(&[TEXT, Rule::Object(&DEVICE)]), unique: false }),
        ("dns", WORD_OR_WORDS),
        ("dns_opt", WORDS),
        ("dns_search", WORD_OR_WORDS),
        ("domainname", TEXT),
        ("entrypoint", COMMAND),
        (
            "env_file",
            Rule::Either(&[TEXT, Rule::List { item: &Rule::Either(&[TEXT, Rule::Object(&ENV_FILE)]), unique: false }]),
        ),
        ("label_file", Rule::Either(&[TEXT, TEXTS])),
        ("environment", LIST_OR_MAP),
        ("expose", Rule::List { item: &AMOUNT, unique: true }),
        ("extends", Rule::Either(&[TEXT, Rule::Object(&EXTENDS)])),
        ("provider", Rule::Object(&PROVIDER)),
        ("external_links", WORDS),
        ("extra_hosts", EXTRA_HOSTS),
        ("gpus", Rule::Either(&[Rule::Words(&["all"]), Rule::List { item: &Rule::Object(&GPU), unique: false }])),
        ("group_add", Rule::List { item: &AMOUNT, unique: true }),
        ("healthcheck", Rule::Object(&HEALTHCHECK)),
        ("hostname", TEXT),
        ("image", TEXT),
        ("init", FLAG),
        ("ipc", TEXT),
        ("isolation", TEXT),
        ("labels", LIST_OR_MAP),
        ("links", WORDS),
        ("logging", Rule::Object(&LOGGING)),
        ("mac_address", TEXT),
        ("mem_limit", AMOUNT),
        ("mem_reservation", WHOLE),
        ("mem_swappiness", WHOLE),
        ("memswap_limit", AMOUNT),
        ("network_mode", TEXT),
        (
            "models",
            Rule::Either(&[
                WORDS,
                Rule::Dictionary {
                    keys: Keys::Name,
                    strict: false,
                    value: &Rule::Either(&[Rule::Object(&SERVICE_MODEL), Rule::Scalar(NULL)]),
                },
            ]),
        ),
        (
            "networks",
            Rule::Either(&[
                WORDS,
                Rule::Dictionary {
                    keys: Keys::Name,
                    strict: true,
                    value: &Rule::Either(&[Rule::Object(&SERVICE_NETWORK), Rule::Scalar(NULL)]),
                },
            ]),
        ),
        ("oom_kill_disable", FLAG),
        ("oom_score_adj", Rule::Bounded(-1000, 1000)),
        ("pid", Rule::Scalar(STRING | NULL)),
        ("pids_limit", AMOUNT),
        ("platform", TEXT),
        ("ports", Rule::List { item: &Rule::Either(&[Rule::Scalar(NUMBER), TEXT, Rule::Object(&PORT)]), unique: true }),
        ("post_start", HOOKS),
        ("pre_start", Rule::List { item: &Rule::Object(&PRE_START), unique: false }),
        ("pre_stop", HOOKS),
        ("privileged", FLAG),
        ("profiles", WORDS),
        (
            "pull_policy",
            Rule::Text(
                is_pull_policy,
                "'always', 'never', 'build', 'if_not_present', 'missing', 'refresh', 'daily', 'weekly' or 'every_<duration>'",
            ),
        ),
        ("pull_refresh_after", TEXT),
        ("read_only", FLAG),
        ("restart", TEXT),
        ("runtime", TEXT),
        ("scale", WHOLE),
        ("security_opt", WORDS),
        ("shm_size", AMOUNT),
        ("secrets", FILE_MOUNTS),
        ("sysctls", LIST_OR_MAP),
        ("stdin_open", FLAG),
        ("stop_grace_period", TEXT),
        ("stop_signal", TEXT),
        ("storage_opt", Rule::Dictionary { keys: Keys::Filled, strict: false, value: &Rule::Any }),
        ("tmpfs", WORD_OR_WORDS),
        ("tty", FLAG),
        ("ulimits", ULIMITS),
        ("use_api_socket", Rule::Scalar(BOOL)),
        ("user", TEXT),
        ("uts", TEXT),
        ("userns_mode", TEXT),
        ("volumes", Rule::List { item: &Rule::Either(&[TEXT, Rule::Object(&MOUNT)]), unique: true }),
        ("volumes_from", WORDS),
        ("working_dir", TEXT),
    ],
);

static BUILD: Object = object(
    "a build",
    &[
        ("context", TEXT),
        ("dockerfile", TEXT),
        ("dockerfile_inline", TEXT),
        ("entitlements", TEXTS),
        ("args", LIST_OR_MAP),
        ("ssh", LIST_OR_MAP),
        ("labels", LIST_OR_MAP),
        ("cache_from", TEXTS),
        ("cache_to", TEXTS),
        ("no_cache", FLAG),
        ("additional_contexts", LIST_OR_MAP),
        ("network", TEXT),
        ("provenance", FLAG),
        ("sbom", FLAG),
        ("pull", FLAG),
        ("target", TEXT),
        ("shm_size", WHOLE),
        ("extra_hosts", EXTRA_HOSTS),
        ("isolation", TEXT),
        ("privileged", FLAG),
        ("secrets", FILE_MOUNTS),
        ("tags", TEXTS),
        ("ulimits", ULIMITS),
        ("platforms", TEXTS),
    ],
);

const BLKIO_LIMITS: Rule = Rule::List {
    item: &Rule::Object(&Object { extensions: false, ..object("a device rate", &[("path", TEXT), ("rate", WHOLE)]) }),
    unique: false,
};

static BLKIO: Object = Object {
    extensions: false,
    ..object(
        "a blkio_config",
        &[
            ("device_read_bps", BLKIO_LIMITS),
            ("device_read_iops", BLKIO_LIMITS),
            ("device_write_bps", BLKIO_LIMITS),
            ("device_write_iops", BLKIO_LIMITS),
            ("weight", WHOLE),
            (
                "weight_device",
                Rule::List {
                    item: &Rule::Object(&Object {
                        extensions: false,
                        ..object("a device weight", &[("path", TEXT), ("weight", WHOLE)])
                    }),
                    unique: false,
                },
            ),
        ],
    )
};

static CREDENTIAL_SPEC: Object = object("a credential_spec", &[("config", TEXT), ("file", TEXT), ("registry", TEXT)]);

static DEPENDENCY: Object = Object {
    required: &["condition"],
    ..object(
        "a dependency",
        &[
            ("restart", FLAG),
            ("required", Rule::Scalar(BOOL)),
            ("condition", Rule::Words(&["service_started", "service_healthy", "service_completed_successfully"])),
        ],
    )
};

static DEVICE: Object = Object {
    required: &["source"],
    ..object("a device", &[("source", TEXT), ("target", TEXT), ("permissions", TEXT)])
};

static ENV_FILE: Object = Object {
    required: &["path"],
    extensions: false,
    ..object("an env_file", &[("path", TEXT), ("format", TEXT), ("required", FLAG)])
};

static EXTENDS: Object =
    Object { required: &["service"], extensions: false, ..object("an extends", &[("service", TEXT), ("file", TEXT)]) };

const PROVIDER_VALUE: Rule = Rule::Scalar(STRING | NUMBER | BOOL);

static PROVIDER: Object = Object {
    required: &["type"],
    ..object(
        "a provider",
        &[
            ("type", TEXT),
            (
                "options",
                Rule::Dictionary {
                    keys: Keys::Filled,
                    strict: false,
                    value: &Rule::Either(&[PROVIDER_VALUE, Rule::List { item: &PROVIDER_VALUE, unique: false }]),
                },
            ),
        ],
    )
};

static HEALTHCHECK: Object = object(
    "a healthcheck",
    &[
        ("disable", FLAG),
        ("interval", TEXT),
        ("retries", AMOUNT),
        ("test", Rule::Either(&[TEXT, TEXTS])),
        ("timeout", TEXT),
        ("start_period", TEXT),
        ("start_interval", TEXT),
    ],
);

static LOGGING: Object = object(
    "a logging configuration",
    &[
        ("driver", TEXT),
        (
            "options",
            Rule::Dictionary { keys: Keys::Filled, strict: false, value: &Rule::Scalar(STRING | NUMBER | NULL) },
        ),
    ],
);

static SERVICE_MODEL: Object = object("a service's model", &[("endpoint_var", TEXT), ("model_var", TEXT)]);

static SERVICE_NETWORK: Object = object(
    "a service's network",
    &[
        ("aliases", WORDS),
        ("interface_name", TEXT),
        ("ipv4_address", TEXT),
        ("ipv6_address", TEXT),
        ("link_local_ips", WORDS),
        ("mac_address", TEXT),
        ("driver_opts", OPTIONS),
        ("priority", Rule::Scalar(NUMBER)),
        ("gw_priority", Rule::Scalar(NUMBER)),
    ],
);

static PORT: Object = object(
    "a port",
    &[
        ("name", TEXT),
        ("mode", TEXT),
        ("host_ip", TEXT),
        ("target", WHOLE),
        ("published", WHOLE),
        ("protocol", TEXT),
        ("app_protocol", TEXT),
    ],
);

const HOOKS: Rule = Rule::List { item: &Rule::Object(&HOOK), unique: false };

static HOOK: Object = Object {
    required: &["command"],
    ..object(
        "a hook",
        &[
            ("command", COMMAND),
            ("user", TEXT),
            ("privileged", FLAG),
            ("working_dir", TEXT),
            ("environment", LIST_OR_MAP),
        ],
    )
};

/// Of the specification after Docker Compose 2.40.
static PRE_START: Object = object(
    "a pre_start hook",
    &[
        ("command", COMMAND),
        ("user", TEXT),
        ("privileged", FLAG),
        ("working_dir", TEXT),
        ("environment", LIST_OR_MAP),
        ("image", TEXT),
        ("per_replica", FLAG),
    ],
);

static MOUNT: Object = Object {
    required: &["type"],
    ..object(
        "a mount",
        &[
            ("type", Rule::Words(&["bind", "volume", "tmpfs", "cluster", "npipe", "image"])),
            ("source", TEXT),
            ("target", TEXT),
            ("read_only", FLAG),
            ("consistency", TEXT),
            (
                "bind",
                Rule::Object(&object(
                    "a bind",
                    &[
                        ("propagation", TEXT),
                        ("create_host_path", FLAG),
                        ("recursive", Rule::Words(&["enabled", "disabled", "writable", "readonly"])),
                        ("selinux", Rule::Words(&["z", "Z"])),
                    ],
                )),
            ),
            (
                "volume",
                Rule::Object(&object(
                    "a volume's options",
                    &[("labels", LIST_OR_MAP), ("nocopy", FLAG), ("subpath", TEXT)],
                )),
            ),
            ("tmpfs", Rule::Object(&object("a tmpfs", &[("size", Rule::Bounded(0, i64::MAX)), ("mode", AMOUNT)]))),
            ("image", Rule::Object(&object("an image mount's options", &[("subpath", TEXT)]))),
        ],
    )
};

const FILE_MOUNTS: Rule = Rule::List {
    item: &Rule::Either(&[
        TEXT,
        Rule::Object(&object(
            "a file mount",
            &[("source", TEXT), ("target", TEXT), ("uid", TEXT), ("gid", TEXT), ("mode", AMOUNT)],
        )),
    ]),
    unique: false,
};

const ULIMITS: Rule = Rule::Dictionary {
    keys: Keys::Lower,
    strict: false,
    value: &Rule::Either(&[
        WHOLE,
        Rule::Object(&Object {
            required: &["soft", "hard"],
            ..object("a ulimit", &[("hard", WHOLE), ("soft", WHOLE)])
        }),
    ]),
};

static DEVELOP: Object = object(
    "a develop section",
    &[(
        "watch",
        Rule::List {
            item: &Rule::Object(&Object {
                required: &["path", "action"],
                ..object(
                    "a watch rule",
                    &[
                        ("ignore", WORD_OR_WORDS),
                        ("include", WORD_OR_WORDS),
                        ("path", TEXT),
                        ("action", Rule::Words(&["rebuild", "sync", "restart", "sync+restart", "sync+exec"])),
                        ("target", TEXT),
                        ("exec", Rule::Object(&HOOK)),
                        ("initial_sync", Rule::Scalar(BOOL)),
                    ],
                )
            }),
            unique: false,
        },
    )],
);

const UPDATE_KEYS: &[(&str, Rule)] = &[
    ("parallelism", WHOLE),
    ("delay", TEXT),
    ("failure_action", TEXT),
    ("monitor", TEXT),
    ("max_failure_ratio", AMOUNT),
    ("order", Rule::Words(&["start-first", "stop-first"])),
];

static DEPLOY: Object = object(
    "a deploy section",
    &[
        ("mode", TEXT),
        ("endpoint_mode", TEXT),
        ("replicas", WHOLE),
        ("labels", LIST_OR_MAP),
        ("rollback_config", Rule::Object(&object("a rollback_config", UPDATE_KEYS))),
        ("update_config", Rule::Object(&object("an update_config", UPDATE_KEYS))),
        (
            "resources",
            Rule::Object(&object(
                "resources",
                &[("limits", Rule::Object(&LIMITS)), ("reservations", Rule::Object(&RESERVATIONS))],
            )),
        ),
        (
            "restart_policy",
            Rule::Object(&object(
                "a restart_policy",
                &[("condition", TEXT), ("delay", TEXT), ("max_attempts", WHOLE), ("window", TEXT)],
            )),
        ),
        (
            "placement",
            Rule::Object(&object(
                "a placement",
                &[
                    ("constraints", TEXTS),
                    (
                        "preferences",
                        Rule::List { item: &Rule::Object(&object("a preference", &[("spread", TEXT)])), unique: false },
                    ),
                    ("max_replicas_per_node", WHOLE),
                ],
            )),
        ),
    ],
);

static LIMITS: Object = object("limits", &[("cpus", AMOUNT), ("memory", TEXT), ("pids", WHOLE)]);

static RESERVATIONS: Object = object(
    "reservations",
    &[
        ("cpus", AMOUNT),
        ("memory", TEXT),
        (
            "generic_resources",
            Rule::List {
                item: &Rule::Object(&object(
                    "a generic resource",
                    &[(
                        "discrete_resource_spec",
                        Rule::Object(&object("a discrete_resource_spec", &[("kind", TEXT), ("value", AMOUNT)])),
                    )],
                )),
                unique: false,
            },
        ),
        (
            "devices",
            Rule::List {
                item: &Rule::Object(&Object {
                    required: &["capabilities"],
                    ..object("a device request", DEVICE_REQUEST_KEYS)
                }),
                unique: false,
            },
        ),
    ],
);

const DEVICE_REQUEST_KEYS: &[(&str, Rule)] =
    &[("capabilities", WORDS), ("count", WHOLE), ("device_ids", WORDS), ("driver", TEXT), ("options", LIST_OR_MAP)];

static GPU: Object = Object { strict: false, ..object("a GPU request", DEVICE_REQUEST_KEYS) };

const EXTERNAL: Rule = Rule::Either(&[FLAG, Rule::Object(&object("an external reference", &[("name", TEXT)]))]);
const LOOSE_EXTERNAL: Rule = Rule::Either(&[
    FLAG,
    Rule::Object(&Object { strict: false, ..object("an external reference", &[("name", TEXT)]) }),
]);

static NETWORK: Object = object(
    "a network",
    &[
        ("name", TEXT),
        ("driver", TEXT),
        ("driver_opts", OPTIONS),
        (
            "ipam",
            Rule::Object(&object(
                "an ipam section",
                &[
                    ("driver", TEXT),
                    (
                        "config",
                        Rule::List {
                            item: &Rule::Object(&object(
                                "an address pool",
                                &[
                                    ("subnet", TEXT),
                                    ("ip_range", TEXT),
                                    ("gateway", TEXT),
                                    (
                                        "aux_addresses",
                                        Rule::Dictionary { keys: Keys::Filled, strict: true, value: &TEXT },
                                    ),
                                ],
                            )),
                            unique: false,
                        },
                    ),
                    ("options", Rule::Dictionary { keys: Keys::Filled, strict: true, value: &TEXT }),
                ],
            )),
        ),
        ("external", EXTERNAL),
        ("internal", FLAG),
        ("enable_ipv4", FLAG),
        ("enable_ipv6", FLAG),
        ("attachable", FLAG),
        ("labels", LIST_OR_MAP),
    ],
);

static VOLUME: Object = object(
    "a volume",
    &[("name", TEXT), ("driver", TEXT), ("driver_opts", OPTIONS), ("external", EXTERNAL), ("labels", LIST_OR_MAP)],
);

static SECRET: Object = object(
    "a secret",
    &[
        ("name", TEXT),
        ("environment", TEXT),
        ("file", TEXT),
        ("external", LOOSE_EXTERNAL),
        ("labels", LIST_OR_MAP),
        ("driver", TEXT),
        ("driver_opts", OPTIONS),
        ("template_driver", TEXT),
    ],
);

static CONFIG: Object = object(
    "a config",
    &[
        ("name", TEXT),
        ("content", TEXT),
        ("environment", TEXT),
        ("file", TEXT),
        ("external", LOOSE_EXTERNAL),
        ("labels", LIST_OR_MAP),
        ("template_driver", TEXT),
    ],
);

static MODEL: Object = Object {
    required: &["model"],
    ..object(
        "a model",
        &[("name", TEXT), ("model", TEXT), ("context_size", Rule::Scalar(INTEGER)), ("runtime_flags", TEXTS)],
    )
};

/// Two characters of a name somewhere: the schema's pattern is not anchored.
fn is_container_name(text: &str) -> bool {
    text.as_bytes().windows(2).any(|pair| {
        pair[0].is_ascii_alphanumeric() && (pair[1].is_ascii_alphanumeric() || matches!(pair[1], b'_' | b'.' | b'-'))
    })
}

/// One of the words somewhere: the schema's pattern is not anchored.
fn is_pull_policy(text: &str) -> bool {
    const WORDS: [&str; 8] = ["always", "never", "build", "if_not_present", "missing", "refresh", "daily", "weekly"];
    WORDS.iter().any(|word| text.contains(word))
        || text.match_indices("every_").any(|(at, prefix)| {
            let age = &text.as_bytes()[at + prefix.len()..];
            let digits = age.iter().take_while(|byte| byte.is_ascii_digit()).count();
            digits > 0 && age.get(digits).is_some_and(|unit| b"wdhms".contains(unit))
        })
}
