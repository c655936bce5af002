//! Messages behind their length on a stream socket (see [`crate::protocol`]).

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::protocol::MAX_MESSAGE;

/// Reads one message; `None` at the end of the stream.
///
/// Not cancel-safe: a reader must not be dropped in the middle of a message.
pub async fn read<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<T>> {
    let length = match stream.read_u32().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > MAX_MESSAGE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("message of {length} bytes")));
    }
    let mut bytes = vec![0; usize::try_from(length).expect("32 bits fit")];
    stream.read_exact(&mut bytes).await?;
    serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from)
}

/// Writes one message.
pub async fn write<T: Serialize>(stream: &mut (impl AsyncWrite + Unpin), message: &T) -> io::Result<()> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = u32::try_from(bytes.len() - 4).ok().filter(|length| *length <= MAX_MESSAGE);
    let Some(length) = length else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("message of {} bytes", bytes.len() - 4)));
    };
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    stream.write_all(&bytes).await
}
