//! The supervisor: one process per project that looks after its containers.
