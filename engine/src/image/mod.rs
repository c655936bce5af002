//! Images: references, the registry client, the content store and the layers unpacked from it.
//!
//! An image is a manifest that names a configuration and layers (OCI image specification). This module fetches them
//! from registries (OCI distribution specification), keeps them in an OCI image layout that other tools read, and
//! unpacks each layer once into a directory that overlayfs stacks. It starts no container and mounts nothing.
//!
//! Everything that comes out of a registry or an archive is hostile until its digest is checked, and its content
//! stays so: see [`unpack`] and [`lookup`] for how paths are resolved, [`manifest`] for bounds.

mod archive;
mod artifact;
mod authorize;
mod blob;
mod build_cache;
pub mod builtin;
mod challenge;
mod commit;
mod compress;
mod config;
mod copy;
mod credentials;
mod decompress;
mod describe;
mod digest;
mod download;
mod gc;
mod http;
mod import;
mod layer;
mod layout;
mod lock;
mod lookup;
mod manifest;
mod pull;
mod push;
mod reference;
mod registry;
pub(crate) mod remove;
mod save;
mod sent;
mod settings;
mod step;
mod store;
mod tar;
mod unpack;
mod url;
mod verify;

pub use archive::ArchiveError;
pub use artifact::{Artifact, ArtifactKind};
pub(crate) use blob::{HashedFile, write_volatile};
pub(crate) use build_cache::{
    CacheConfig, CacheLayer, CacheRecord, CacheResult, INLINE, LayerAnnotations, inline_text,
};
pub use build_cache::{CacheError, CacheSource, ImportedCache};
pub use commit::Commit;
pub use compress::Compression;
pub use config::{ConfigError, DockerConfig, Healthcheck, Image};
pub use copy::copy;
pub use credentials::{Credentials, CredentialsError, erase_credentials, find_credentials, save_credentials};
pub(crate) use decompress::{Decompressor, expand};
pub use describe::Layer;
pub use digest::{Digest, DigestError, Hasher};
pub use download::DownloadError;
pub(crate) use download::Version;
pub use gc::{Freed, Usage};
pub use http::{Timeouts, TransportError};
pub use import::{Import, ImportError, ImportedConfig, import_url};
pub use layout::LayoutError;
pub(crate) use lock::Lock;
pub use lookup::{LayerStack, LookupError};
pub use manifest::{Descriptor, Dialect, Document, Index, Manifest, ManifestError, Platform, PlatformError, media};
pub(crate) use pull::on_thread;
pub use pull::{Progress, PullError, PullEvent, PullOptions, PullPhase, no_progress, prepare, pull, resolve};
pub use push::{PushError, PushEvent, PushPhase, PushProgress, push, push_artifact, push_as};
pub use reference::{DEFAULT_REGISTRY, DEFAULT_TAG, Reference, ReferenceError};
pub use registry::{Client, ClientOptions, RegistryError};
pub use save::{Archive, Folder, Layout};
pub(crate) use sent::ATTESTED;
pub use settings::{ProxySettings, RegistryConfig, RegistrySettings, SettingsError};
pub use step::{Step, StepKey};
pub(crate) use store::io_error;
pub use store::{Hold, Lease, Store, StoreError};
pub use tar::TarError;
pub(crate) use tar::{Entry, Kind, Reader};
pub(crate) use unpack::OPAQUE_ATTRIBUTE;
pub use unpack::{Limits, UnpackError, Unpacked, unpack};
pub use verify::{Damage, repair};
