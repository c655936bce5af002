//! Questions that come as datagrams, which is nearly all of them.
//!
//! `hickory_server` gives each of them a task, whose answer a second task sends: two wake-ups of other threads for 10 µs of
//! work. Here the task that reads a question also answers it, if the answer is in our tables; only what somebody outside
//! is asked for goes on beside it.

use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;

use futures_util::StreamExt as _;
use hickory_proto::op::{Header, MessageType, ResponseCode};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};
use hickory_server::net::BufDnsStreamHandle;
use hickory_server::net::runtime::TokioTime;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandle, ResponseHandler as _};
use hickory_server::zone_handler::{MessageResponseBuilder, Queries};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// What a question may be long; as much as EDNS lets anybody send to us.
const LONGEST: usize = 4096;

/// Answers what comes on a socket, for as long as the socket works.
pub(super) async fn serve<H: RequestHandler>(socket: UdpSocket, handler: Arc<H>) {
    let (handle, mut answers) = BufDnsStreamHandle::new(SocketAddr::from(([127, 0, 0, 11], 0)));
    // As many as the forwarder lets wait.
    let mut beside = JoinSet::new();
    let mut buffer = vec![0; LONGEST];
    loop {
        let (length, from) = tokio::select! {
            // An answer that is ready goes before the next question is read, so that few of them wait.
            biased;
            Some(answer) = answers.next() => {
                if let Err(error) = socket.send_to(answer.bytes(), answer.addr()).await {
                    tracing::debug!(%error, "a name query could not be answered");
                }
                continue;
            }
            Some(_) = beside.join_next(), if !beside.is_empty() => continue,
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                Err(error) => {
                    tracing::warn!(%error, "a name query could not be read");
                    // Whatever lacks now (memory, say) may be there again soon.
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    continue;
                }
            },
        };
        if !answerable(from) {
            continue;
        }
        let response = ResponseHandle::new(from, handle.with_remote_addr(from), Protocol::Udp);
        let mut answering = Box::pin(answer(Arc::clone(&handler), buffer[..length].to_vec(), from, response));
        if poll_fn(|context| Poll::Ready(answering.as_mut().poll(context).is_pending())).await {
            beside.spawn(answering);
        }
    }
}

/// Has one question answered through `response`; nothing is said to what is no question.
async fn answer<H: RequestHandler>(handler: Arc<H>, bytes: Vec<u8>, from: SocketAddr, mut response: ResponseHandle) {
    let mut decoder = BinDecoder::new(&bytes);
    let Ok(header) = Header::read(&mut decoder) else { return };
    if header.metadata.message_type == MessageType::Response {
        // Whoever answers answers lets two servers talk for ever.
        return;
    }
    match Request::from_bytes(bytes, from, Protocol::Udp) {
        Ok(request) => {
            handler.handle_request::<_, TokioTime>(&request, response).await;
        }
        Err(_) => {
            let Ok(none) = Queries::read(&mut BinDecoder::new(&[]), 0) else { return };
            let refusal = MessageResponseBuilder::new(&none, None).error_msg(&header.metadata, ResponseCode::FormErr);
            if let Err(error) = response.send_response(refusal).await {
                tracing::debug!(%error, "a name query that makes no sense could not be answered");
            }
        }
    }
}

/// Returns whether something can be sent to this address.
fn answerable(from: SocketAddr) -> bool {
    let possible = match from.ip() {
        IpAddr::V4(v4) => !v4.is_unspecified() && !v4.is_broadcast(),
        IpAddr::V6(v6) => !v6.is_unspecified(),
    };
    possible && from.port() != 0
}
