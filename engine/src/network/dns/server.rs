//! A sandbox's DNS server.

use std::net::{IpAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{PTR, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::task::JoinSet;

use super::datagram;
use super::forward::{Forwarder, Upstream};
use super::table::{Answer, Kind, View};

/// How long a client may remember an address, in seconds. Containers come and go, and asking again costs 30 µs.
const TTL: u32 = 0;
/// How long a TCP connection may be idle.
const IDLE: Duration = Duration::from_secs(10);
/// Answers that may wait to be sent on a TCP connection.
const QUEUE: usize = 64;

/// A running server. It ends when this is dropped.
pub(crate) struct Resolver {
    _datagrams: JoinSet<()>,
    _connections: Server<Handler>,
    view: Arc<View>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").field("view", &self.view).finish_non_exhaustive()
    }
}

impl Resolver {
    /// Answers on these sockets, which must not block, on the current runtime.
    pub(crate) fn start(
        (udp, tcp): (UdpSocket, TcpListener),
        view: Arc<View>,
        forwarder: Arc<Forwarder>,
        upstream: Option<Upstream>,
    ) -> std::io::Result<Self> {
        let handler = Handler { view: Arc::clone(&view), forwarder, upstream };
        let mut connections = Server::new(handler.clone());
        connections.register_listener(tokio::net::TcpListener::from_std(tcp)?, IDLE, QUEUE);
        let mut datagrams = JoinSet::new();
        datagrams.spawn(datagram::serve(tokio::net::UdpSocket::from_std(udp)?, Arc::new(handler)));
        Ok(Self { _datagrams: datagrams, _connections: connections, view })
    }

    pub(crate) fn view(&self) -> &View {
        &self.view
    }
}

#[derive(Clone)]
struct Handler {
    view: Arc<View>,
    forwarder: Arc<Forwarder>,
    /// The container's own resolvers (`dns`), in place of the host's.
    upstream: Option<Upstream>,
}

/// What goes back.
struct Reply {
    code: ResponseCode,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
    /// The answer that came from outside, whose flags are passed on.
    foreign: Option<(Metadata, Option<Edns>)>,
}

impl Reply {
    fn code(code: ResponseCode) -> Self {
        Self { code, answers: Vec::new(), authorities: Vec::new(), additionals: Vec::new(), foreign: None }
    }

    fn records(answers: Vec<Record>) -> Self {
        Self { answers, ..Self::code(ResponseCode::NoError) }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut response: R) -> ResponseInfo {
        let reply = self.reply(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.recursion_available = true;
        // The limit of the answer's size is taken from here, and is the client's, not ours.
        let mut edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, 4096));
            edns
        });
        if let Some((theirs, their_edns)) = &reply.foreign {
            metadata.authentic_data = theirs.authentic_data;
            metadata.checking_disabled = theirs.checking_disabled;
            metadata.authoritative = theirs.authoritative;
            metadata.truncation = theirs.truncation;
            if let (Some(edns), Some(theirs)) = (&mut edns, their_edns) {
                edns.set_dnssec_ok(theirs.flags().dnssec_ok);
            }
        }
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let message = builder.build(metadata, &reply.answers, &reply.authorities, [], &reply.additionals);
        match response.send_response(message).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "a name query could not be answered");
                let failed = MessageResponseBuilder::from_message_request(request)
                    .error_msg(&request.metadata, ResponseCode::ServFail);
                info_of(failed.metadata())
            }
        }
    }
}

fn info_of(metadata: &Metadata) -> ResponseInfo {
    use hickory_proto::op::{Header, HeaderCounts};
    Header { metadata: *metadata, counts: HeaderCounts::default() }.into()
}

impl Handler {
    async fn reply(&self, request: &Request) -> Reply {
        if request.metadata.op_code != OpCode::Query {
            return Reply::code(ResponseCode::NotImp);
        }
        let Ok(info) = request.request_info() else { return Reply::code(ResponseCode::FormErr) };
        if info.query.query_class() != DNSClass::IN {
            return Reply::code(ResponseCode::Refused);
        }
        let kind = match info.query.query_type() {
            RecordType::A => Kind::V4,
            RecordType::AAAA => Kind::V6,
            RecordType::PTR => Kind::Pointer,
            _ => Kind::Other,
        };
        // With the letters as they were asked: some clients check.
        let asked: &Name = info.query.original().name();
        let record = |data| Record::from_rdata(asked.clone(), TTL, data);
        let key = key(asked);
        if let Some((port, name)) = service(&key)
            && let answer @ (Answer::Nothing | Answer::Unknown) = self.view.answer(name, Kind::Other)
        {
            return match port {
                Some(port) if answer == Answer::Nothing && info.query.query_type() == RecordType::SRV => {
                    self.locate(asked, port, name)
                }
                Some(_) if answer == Answer::Nothing => Reply::code(ResponseCode::NoError),
                _ => Reply::code(ResponseCode::NXDomain),
            };
        }
        match self.view.answer(&key, kind) {
            Answer::Addresses(addresses) => Reply::records(
                addresses
                    .into_iter()
                    .map(|address| match address {
                        IpAddr::V4(v4) => record(RData::A(v4.into())),
                        IpAddr::V6(v6) => record(RData::AAAA(v6.into())),
                    })
                    .collect(),
            ),
            Answer::Name(name) => match Name::from_ascii(format!("{name}.")) {
                Ok(name) => Reply::records(vec![record(RData::PTR(PTR(name)))]),
                Err(_) => Reply::code(ResponseCode::NXDomain),
            },
            Answer::Nothing => Reply::code(ResponseCode::NoError),
            Answer::Unknown => Reply::code(ResponseCode::NXDomain),
            Answer::Foreign if self.view.confined() => Reply::code(ResponseCode::Refused),
            Answer::Foreign => self.forward(request).await,
        }
    }

    /// Says where a service is: at this port of every container of the name (RFC 2782).
    fn locate(&self, asked: &Name, port: u16, name: &str) -> Reply {
        let mut reply = Reply::records(Vec::new());
        for (container, address) in self.view.members(name) {
            let Ok(target) = Name::from_ascii(format!("{container}.")) else { continue };
            let found = RData::SRV(SRV::new(0, 0, port, target.clone()));
            // One with addresses of both families is one container.
            if reply.answers.iter().all(|known| known.data != found) {
                reply.answers.push(Record::from_rdata(asked.clone(), TTL, found));
            }
            let data = match address {
                IpAddr::V4(v4) => RData::A(v4.into()),
                IpAddr::V6(v6) => RData::AAAA(v6.into()),
            };
            reply.additionals.push(Record::from_rdata(target, TTL, data));
        }
        reply
    }

    async fn forward(&self, request: &Request) -> Reply {
        let tcp = request.protocol() == Protocol::Tcp;
        let answer = self.forwarder.ask(request.as_slice(), self.upstream.as_ref(), tcp).await;
        let Some(message) = answer.and_then(|bytes| Message::from_vec(&bytes).ok()) else {
            return Reply::code(ResponseCode::ServFail);
        };
        Reply {
            code: message.metadata.response_code,
            foreign: Some((message.metadata, message.edns)),
            answers: message.answers,
            authorities: message.authorities,
            additionals: message.additionals,
        }
    }
}

/// Reads `_port._protocol.name`: the port, if it is a number, and the name.
fn service(key: &str) -> Option<(Option<u16>, &str)> {
    let (port, rest) = key.strip_prefix('_')?.split_once('.')?;
    let (protocol, name) = rest.strip_prefix('_')?.split_once('.')?;
    matches!(protocol, "tcp" | "udp" | "sctp").then(|| (port.parse().ok(), name))
}

/// Returns the name in lower case without its final dot.
fn key(name: &Name) -> String {
    let mut key = String::with_capacity(name.len());
    for label in name {
        if !key.is_empty() {
            key.push('.');
        }
        // A name of ours is ASCII; anything else only has to be unlike it.
        key.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    }
    key
}
