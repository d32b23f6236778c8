//! A member that is not Weir: it speaks what the federation's documentation
//! says of the wire (`weir_federation::protocol`), and uses nothing of the code
//! that it talks to. Another implementation looks like this, and so does an
//! attacker.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use futures_util::stream::StreamExt as _;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use libp2p::core::upgrade::{
    InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo, Version,
};
use libp2p::gossipsub::{self, IdentTopic, MessageAcceptance};
use libp2p::identity::Keypair;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, Transport as _, identify, noise, tcp, yamux,
};
use libp2p_stream::{Control, IncomingStreams};
use parking_lot::Mutex;
use serde_cbor::Value;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_util::compat::FuturesAsyncReadCompatExt as _;

use crate::node::Function;

/// Kinds of messages by their numbers on the wire.
pub mod kind {
    /// How a member is.
    pub const REPORT: u8 = 1;
    /// That a life of another member is believed to be over.
    pub const SUSPICION: u8 = 2;
    /// That a member leaves.
    pub const LEAVE: u8 = 3;
    /// A member's certificate.
    pub const INTRODUCTION: u8 = 4;
    /// The federation's word that somebody is no member any more.
    pub const DENIAL: u8 = 5;
    /// A function that was deployed or removed.
    pub const RECORD: u8 = 7;
    /// What is known of functions, in short.
    pub const SUMMARY: u8 = 8;
    /// That a member is a newcomer when it is back.
    pub const FORGET: u8 = 9;
}

/// Where everybody hears everybody.
pub const EVERYBODY: &str = "weir/1/all";

/// The header in which a call's own words travel.
pub const CARRIAGE: &str = "x-weir-carriage";

/// Messages that were heard and nobody asked for yet.
const HEARD: usize = 10_000;

/// An answer to a call.
pub type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// What a member does with a request that arrives on a stream for calls.
pub type Serve = Arc<dyn Fn(Request<Incoming>) -> BoxFuture<'static, Reply> + Send + Sync>;

/// How a member behaves.
#[derive(Clone)]
pub struct Manners {
    /// Versions that it says it speaks.
    pub versions: Vec<i128>,
    /// What it says beside what the documentation knows.
    pub more: BTreeMap<String, Value>,
    /// Its zone.
    pub zone: String,
    /// What it does with calls.
    pub serve: Serve,
    /// Who it is, where it was let in before.
    pub identity: Option<Identity>,
}

/// Somebody who was let in.
#[derive(Clone)]
pub struct Identity {
    key: Keypair,
    certificate: Vec<u8>,
}

impl Default for Manners {
    fn default() -> Manners {
        Manners {
            versions: vec![1],
            more: BTreeMap::new(),
            zone: "default".to_owned(),
            serve: Arc::new(|_| Box::pin(async { refusal("this member runs nothing") })),
            identity: None,
        }
    }
}

/// A member of another making. It leaves when this is dropped.
pub struct Foreign {
    /// Who it is.
    pub id: PeerId,
    /// Whom it linked to.
    pub host: PeerId,
    key: Keypair,
    certificate: Certificate,
    commands: mpsc::Sender<(String, Vec<u8>)>,
    control: Control,
    heard: Heard,
    _tasks: tokio::task::JoinSet<()>,
}

type Certificate = Arc<Mutex<Option<Vec<u8>>>>;
type Heard = Arc<Mutex<Vec<Message>>>;

/// Something that was heard.
#[derive(Debug, Clone)]
pub struct Message {
    /// Who says it.
    pub from: PeerId,
    /// What kind of thing.
    pub kind: u8,
    /// As it came.
    pub envelope: Vec<u8>,
}

fn lock<T>(mutex: &Mutex<T>) -> parking_lot::MutexGuard<'_, T> {
    mutex.lock()
}

/// A map of CBOR.
pub fn map<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let fields = fields.into_iter();
    Value::Map(fields.map(|(name, value)| (text(name), value)).collect())
}

/// A text of CBOR.
pub fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// CBOR in bytes.
///
/// # Panics
/// Never: plain values can be encoded.
pub fn bytes(value: &Value) -> Vec<u8> {
    serde_cbor::to_vec(value).expect("plain values can be encoded")
}

/// A field of a map.
pub fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Map(fields) => fields.get(&text(name)),
        _ => None,
    }
}

fn field_bytes(value: &Value, name: &str) -> Option<Vec<u8>> {
    match field(value, name) {
        Some(Value::Bytes(bytes)) => Some(bytes.clone()),
        _ => None,
    }
}

/// A body of one piece.
pub fn whole(bytes: impl Into<Bytes>) -> UnsyncBoxBody<Bytes, Infallible> {
    Full::new(bytes.into()).boxed_unsync()
}

/// An answer that a function gave.
pub fn answer(body: impl Into<Bytes>) -> Reply {
    said(&map([("kind", text("answer"))]), body)
}

/// The word that a call was not begun.
pub fn refusal(why: &'static str) -> Reply {
    said(&map([("kind", text("refused"))]), why)
}

/// An answer with these words beside it.
///
/// # Panics
/// Never: base64 is plain text.
pub fn said(words: &Value, body: impl Into<Bytes>) -> Reply {
    let response = Response::builder().header(CARRIAGE, URL_SAFE_NO_PAD.encode(bytes(words)));
    response.body(whole(body)).expect("base64 is plain text")
}

/// The words that came with a call or an answer.
pub fn words(headers: &http::HeaderMap) -> Option<Value> {
    let bytes = URL_SAFE_NO_PAD.decode(headers.get(CARRIAGE)?);
    serde_cbor::from_slice(&bytes.ok()?).ok()
}

/// Who is invited where: what a token says.
fn invitation(token: &str) -> Option<Vec<Multiaddr>> {
    let signed = URL_SAFE_NO_PAD.decode(token.strip_prefix("weir1-")?);
    let signed: Value = serde_cbor::from_slice(&signed.ok()?).ok()?;
    let invite: Value = serde_cbor::from_slice(&field_bytes(&signed, "statement")?).ok()?;
    let Some(Value::Array(places)) = field(&invite, "bootstrap") else {
        return None;
    };
    let places = places.iter().filter_map(|place| match place {
        Value::Text(text) => text.parse().ok(),
        _ => None,
    });
    Some(places.collect())
}

impl Foreign {
    /// Joins by a token, and links to whoever made it.
    ///
    /// # Errors
    /// Why it is not let in.
    ///
    /// # Panics
    /// When the token cannot be read, or the machine gives no sockets.
    pub async fn join(token: &str, manners: Manners) -> Result<Foreign, String> {
        let known = manners.identity.as_ref();
        let key = known.map_or_else(Keypair::generate_ed25519, |known| known.key.clone());
        let id = key.public().to_peer_id();
        let certificate = known.map(|known| known.certificate.clone());
        let certificate = Certificate::new(Mutex::new(certificate));
        let admission = Admission {
            noise: noise::Config::new(&key).expect("a key makes a handshake"),
            hello: hello(&manners, token),
            certificate: certificate.clone(),
        };
        let transport = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
            .upgrade(Version::V1Lazy)
            .authenticate(admission)
            .multiplex(yamux::Config::default())
            .boxed();
        let behaviour = Behaviour {
            gossip: gossip(),
            identify: identify::Behaviour::new(identify::Config::new(
                "/weir/1".to_owned(),
                key.public(),
            )),
            streams: libp2p_stream::Behaviour::new(),
        };
        let settings = libp2p::swarm::Config::with_tokio_executor()
            .with_idle_connection_timeout(Duration::from_secs(600));
        let mut swarm = Swarm::new(transport, behaviour, id, settings);
        let here = "/ip4/127.0.0.1/tcp/0".parse().expect("an address");
        swarm.listen_on(here).expect("loopback has a free port");
        for topic in [EVERYBODY.to_owned(), zone_topic(&manners.zone)] {
            let topic = IdentTopic::new(topic);
            let gossip = &mut swarm.behaviour_mut().gossip;
            gossip.subscribe(&topic).expect("topics are free");
        }
        let places = invitation(token).expect("a token can be read by whoever knows the format");
        for place in places {
            swarm.dial(place).expect("an address can be dialled");
        }
        let host = loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { peer_id, .. } => break peer_id,
                SwarmEvent::OutgoingConnectionError { error, .. } => return Err(chain(&error)),
                _ => {}
            }
        };
        let mut control = swarm.behaviour().streams.new_control();
        let mut accept = |name| {
            let accepted = control.accept(StreamProtocol::new(name));
            accepted.expect("each is accepted once")
        };
        let (beats, calls) = (accept("/weir/beat/1"), accept("/weir/calls/1"));
        let (commands, obeyed) = mpsc::channel(1_024);
        let heard = Heard::default();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(run(swarm, obeyed, heard.clone()));
        tasks.spawn(echo_all(beats));
        tasks.spawn(serve_all(calls, manners.serve.clone()));
        let mut beat = control.clone();
        tasks.spawn(async move {
            let stream = beat.open_stream(host, StreamProtocol::new("/weir/beat/1"));
            if let Ok(stream) = stream.await {
                let _ = send_beats(stream).await;
            }
        });
        let foreign = Foreign {
            id,
            host,
            key,
            certificate,
            commands,
            control,
            heard,
            _tasks: tasks,
        };
        let introduction = foreign.certificate();
        foreign
            .publish(EVERYBODY, foreign.seal(kind::INTRODUCTION, &introduction))
            .await;
        Ok(foreign)
    }

    /// Its certificate, as it was given.
    ///
    /// # Panics
    /// When it was given none.
    pub fn certificate(&self) -> Vec<u8> {
        let certificate = lock(&self.certificate).clone();
        certificate.expect("whoever joins is given a certificate")
    }

    /// Who it is, to come back as.
    pub fn identity(&self) -> Identity {
        Identity {
            key: self.key.clone(),
            certificate: self.certificate(),
        }
    }

    /// Signs a message.
    ///
    /// # Panics
    /// Never: a key in memory signs.
    pub fn seal(&self, kind: u8, payload: &[u8]) -> Vec<u8> {
        let signed = [b"weir gossip 1\0".as_slice(), &[kind], payload].concat();
        let signature = self.key.sign(&signed).expect("a key in memory signs");
        envelope(&self.id, kind, payload, &signature)
    }

    /// Gossips a message.
    pub async fn publish(&self, topic: &str, message: Vec<u8>) {
        // A swarm that was cut off hears nothing any more.
        let _ = self.commands.send((topic.to_owned(), message)).await;
    }

    /// Says a report with these fields.
    pub async fn report(&self, zone: &str, fields: &Value) {
        let message = self.seal(kind::REPORT, &bytes(fields));
        self.publish(&zone_topic(zone), message).await;
    }

    /// Tells its host messages directly.
    ///
    /// # Errors
    /// When there is no stream any more.
    pub async fn tell(&self, topic: &str, messages: &[Vec<u8>]) -> io::Result<()> {
        let mut stream = self.stream("/weir/sync/1").await?;
        for message in messages {
            let head = [topic.len() as u32, message.len() as u32];
            let head = head.map(u32::to_be_bytes).concat();
            let framed = [&head, topic.as_bytes(), message].concat();
            stream.write_all(&framed).await?;
        }
        stream.close().await
    }

    /// Opens a stream to its host.
    ///
    /// # Errors
    /// When there is none any more.
    pub async fn stream(&self, name: &'static str) -> io::Result<libp2p::Stream> {
        let opened = self.control.clone();
        let mut opened = opened;
        let stream = opened.open_stream(self.host, StreamProtocol::new(name));
        stream.await.map_err(io::Error::other)
    }

    /// Sends its host a request on a stream for calls.
    ///
    /// # Errors
    /// What broke.
    pub async fn request(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, String> {
        let stream = self.stream("/weir/calls/1").await;
        let stream = TokioIo::new(stream.map_err(|error| error.to_string())?.compat());
        let said = |error: hyper::Error| chain(&error);
        let made = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
        let (mut sender, connection) = made.await.map_err(said)?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(said)?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(said)?.to_bytes();
        Ok(Response::from_parts(head, body))
    }

    /// Calls a function of its host.
    ///
    /// # Errors
    /// What broke.
    ///
    /// # Panics
    /// Never: the request is plain.
    pub async fn call(&self, words: &Value, body: &'static str) -> Result<Response<Bytes>, String> {
        let request = Request::post("https://weir/")
            .header(CARRIAGE, URL_SAFE_NO_PAD.encode(bytes(words)))
            .body(Full::from(body))
            .expect("a plain request");
        self.request(request).await
    }

    /// What it heard from others since it was asked last.
    pub fn heard(&self) -> Vec<Message> {
        std::mem::take(&mut *lock(&self.heard))
    }

    /// Whether its host still bears with it.
    pub fn is_up(&self) -> bool {
        !self.commands.is_closed()
    }
}

/// A number of CBOR.
pub fn number(value: u64) -> Value {
    Value::Integer(value.into())
}

/// A function that none but such members can run: Weir's own are not made so.
pub fn function(name: &str) -> Function {
    Function::new(name, "echo").field("constraints", json!(["make=foreign"]))
}

/// A report of a member that can run these functions and takes `room` calls of
/// others.
pub fn report(sequence: u64, functions: &[&str], room: u64) -> Value {
    let offers = functions.iter().map(|function| {
        map([
            ("function", text(&format!("{function}.openfaas-fn"))),
            ("warm", number(room)),
        ])
    });
    map([
        ("epoch", number(1)),
        ("sequence", number(sequence)),
        ("zone", text("default")),
        ("executors", Value::Array(vec![text("wasm")])),
        ("labels", map([("make", text("foreign"))])),
        (
            "load",
            map([
                ("cpu_total", number(4_000)),
                ("cpu_free", number(4_000)),
                ("guest_cpu", number((room * 1_000).min(4_000))),
                ("guest_cpu_long", number((room * 1_000).min(4_000))),
                ("disk_free", number(1 << 30)),
            ]),
        ),
        ("offers", Value::Array(offers.collect())),
    ])
}

/// Adds fields to a map.
pub fn with<const N: usize>(mut value: Value, more: [(&str, Value); N]) -> Value {
    if let (Value::Map(fields), Value::Map(more)) = (&mut value, map(more)) {
        fields.extend(more);
    }
    value
}

/// The topic of a zone.
pub fn zone_topic(zone: &str) -> String {
    format!("weir/1/zone/{zone}")
}

/// An envelope; whether the signature holds is the caller's affair.
pub fn envelope(from: &PeerId, kind: u8, payload: &[u8], signature: &[u8]) -> Vec<u8> {
    bytes(&map([
        ("from", Value::Bytes(from.to_bytes())),
        ("kind", Value::Integer(kind.into())),
        ("payload", Value::Bytes(payload.to_vec())),
        ("signature", Value::Bytes(signature.to_vec())),
    ]))
}

fn hello(manners: &Manners, token: &str) -> Vec<u8> {
    let versions = manners.versions.iter().map(|v| Value::Integer(*v));
    let right = match &manners.identity {
        Some(known) => ("certificate", Value::Bytes(known.certificate.clone())),
        None => ("token", text(token)),
    };
    let mut hello = map([("versions", Value::Array(versions.collect())), right]);
    if let Value::Map(fields) = &mut hello {
        fields.extend(manners.more.iter().map(|(k, v)| (text(k), v.clone())));
    }
    bytes(&hello)
}

fn gossip() -> gossipsub::Behaviour {
    let config = gossipsub::ConfigBuilder::default()
        .protocol_id("/weir/gossip/1", gossipsub::Version::V1_1)
        .validation_mode(gossipsub::ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(|message| {
            let digest: [u8; 32] = Sha256::digest(&message.data).into();
            gossipsub::MessageId::new(&digest[..8])
        })
        .max_transmit_size(64 << 10)
        .build()
        .expect("the settings fit together");
    gossipsub::Behaviour::new(gossipsub::MessageAuthenticity::Anonymous, config)
        .expect("the settings fit together")
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    gossip: gossipsub::Behaviour,
    identify: identify::Behaviour,
    streams: libp2p_stream::Behaviour,
}

/// Drives the swarm until its last connection ends.
async fn run(
    mut swarm: Swarm<Behaviour>,
    mut commands: mpsc::Receiver<(String, Vec<u8>)>,
    heard: Heard,
) {
    loop {
        tokio::select! {
            command = commands.recv() => {
                let Some((topic, message)) = command else {
                    return;
                };
                let gossip = &mut swarm.behaviour_mut().gossip;
                // Before anybody listens there is nobody to tell: said again.
                let _ = gossip.publish(IdentTopic::new(topic), message);
            }
            event = swarm.select_next_some() => match event {
                SwarmEvent::Behaviour(BehaviourEvent::Gossip(gossipsub::Event::Message {
                    propagation_source,
                    message_id,
                    message,
                })) => {
                    note(&heard, &message.data);
                    let gossip = &mut swarm.behaviour_mut().gossip;
                    gossip.report_message_validation_result(
                        &message_id,
                        &propagation_source,
                        MessageAcceptance::Accept,
                    );
                }
                SwarmEvent::ConnectionClosed { num_established: 0, .. } => return,
                _ => {}
            },
        }
    }
}

fn note(heard: &Heard, message: &[u8]) {
    let Ok(envelope) = serde_cbor::from_slice::<Value>(message) else {
        return;
    };
    let from = field_bytes(&envelope, "from").and_then(|from| PeerId::from_bytes(&from).ok());
    let kind = match field(&envelope, "kind") {
        Some(Value::Integer(kind)) => u8::try_from(*kind).ok(),
        _ => None,
    };
    let mut heard = lock(heard);
    if let (Some(from), Some(kind)) = (from, kind)
        && heard.len() < HEARD
    {
        let envelope = message.to_vec();
        heard.push(Message {
            from,
            kind,
            envelope,
        });
    }
}

async fn send_beats(mut stream: libp2p::Stream) -> io::Result<()> {
    for number in 0_u64.. {
        let beat = [number.to_be_bytes().as_slice(), &[0; 4]].concat();
        stream.write_all(&beat).await?;
        stream.flush().await?;
        stream.read_exact(&mut [0; 12]).await?;
        crate::pass(Duration::from_millis(500)).await;
    }
    Ok(())
}

async fn echo_all(mut beats: IncomingStreams) {
    while let Some((_, mut stream)) = beats.next().await {
        tokio::spawn(async move {
            let mut beat = [0; 12];
            while stream.read_exact(&mut beat).await.is_ok()
                && stream.write_all(&beat).await.is_ok()
                && stream.flush().await.is_ok()
            {}
        });
    }
}

async fn serve_all(mut calls: IncomingStreams, serve: Serve) {
    while let Some((_, stream)) = calls.next().await {
        let serve = serve.clone();
        let service = hyper::service::service_fn(move |request| {
            let answered = serve(request);
            async move { Ok::<_, Infallible>(answered.await) }
        });
        let io = TokioIo::new(stream.compat());
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(connection.serve_connection(io, service));
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Noise, and then the exchange of proofs.
#[derive(Clone)]
struct Admission {
    noise: noise::Config,
    hello: Vec<u8>,
    certificate: Certificate,
}

type Admitted<T> = Pin<Box<dyn Future<Output = io::Result<(PeerId, noise::Output<T>)>> + Send>>;

impl UpgradeInfo for Admission {
    type Info = &'static str;
    type InfoIter = [&'static str; 1];

    fn protocol_info(&self) -> Self::InfoIter {
        ["/weir/1/noise"]
    }
}

impl<T> InboundConnectionUpgrade<T> for Admission
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, noise::Output<T>);
    type Error = io::Error;
    type Future = Admitted<T>;

    fn upgrade_inbound(self, socket: T, name: Self::Info) -> Self::Future {
        Box::pin(async move {
            let identified = self.noise.upgrade_inbound(socket, name).await;
            let (peer, mut stream) = identified.map_err(io::Error::other)?;
            read(&mut stream).await?;
            let certificate = lock(&self.certificate).clone();
            let reply = map([
                ("version", Value::Integer(1)),
                ("certificate", certificate.map_or(Value::Null, Value::Bytes)),
            ]);
            write(&mut stream, &bytes(&reply)).await?;
            Ok((peer, stream))
        })
    }
}

impl<T> OutboundConnectionUpgrade<T> for Admission
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, noise::Output<T>);
    type Error = io::Error;
    type Future = Admitted<T>;

    fn upgrade_outbound(self, socket: T, name: Self::Info) -> Self::Future {
        Box::pin(async move {
            let identified = self.noise.upgrade_outbound(socket, name).await;
            let (peer, mut stream) = identified.map_err(io::Error::other)?;
            write(&mut stream, &self.hello).await?;
            let reply: Value =
                serde_cbor::from_slice(&read(&mut stream).await?).map_err(io::Error::other)?;
            if let Some(Value::Array(refused)) = field(&reply, "refused") {
                return Err(io::Error::other(format!("refused: {refused:?}")));
            }
            if let Some(issued) = field_bytes(&reply, "issued") {
                *lock(&self.certificate) = Some(issued);
            }
            Ok((peer, stream))
        })
    }
}

async fn write<S: AsyncWrite + Unpin>(stream: &mut S, words: &[u8]) -> io::Result<()> {
    let length = u16::try_from(words.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes(), words].concat();
    stream.write_all(&framed).await?;
    stream.flush().await
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let mut words = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut words).await?;
    Ok(words)
}
