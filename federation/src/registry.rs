//! etcd as the registry of members and functions: the same signed records under
//! the same merge rule, kept where all nodes look.
//!
//! | key | value |
//! |---|---|
//! | `PREFIX/FEDERATION/functions/NAME.NAMESPACE` | the newest record, as its writer signed it |
//! | `PREFIX/FEDERATION/members/ID` | CBOR `{introduction: bytes, addresses: [text]}`, under the member's lease of 15 s |
//!
//! Nothing there is believed that is not signed, and a key that is gone means
//! nothing: what was removed is a record too. A node that loses etcd works from
//! what it knows, and tells etcd what it missed when it is back.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, Error, EventType, GetOptions,
    Identity, KeyValue, LeaseKeepAliveStream, LeaseKeeper, PutOptions, TlsOptions, Txn, TxnOp,
    WatchOptions, WatchResponse, WatchStream,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tracing::{info, warn};
use weir_node::id::FunctionName;
use weir_overlay::{Event as Happening, Host as _, Verdict, chain};

use crate::federated::{EtcdSettings, Federated};
use crate::message::{self, ENVELOPE_BYTES, Message};
use crate::report::ADDRESSES;

/// Seconds after which a member that says nothing is not listed any more.
const LEASE: i64 = 15;

/// How often the lease is renewed.
const RENEW: Duration = Duration::from_secs(5);

/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(5);

/// First and longest pause before etcd is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Keys that are read at once: a message of gRPC has its bound.
const PAGE: i64 = 64;

/// Keys that are read at all.
const KEYS: usize = 40_000;

/// Functions that are written before the lease is looked after again.
const TOLD: usize = 64;

/// How often a record is written anew when others write it at the same time.
const TRIES: usize = 8;

/// A member, as it is registered.
#[derive(Debug, Serialize, Deserialize)]
struct Registered {
    /// Its certificate, in an envelope that it signed.
    introduction: ByteBuf,
    /// Where it can be linked to.
    addresses: Vec<String>,
}

/// Why a session with etcd ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{step}")]
    Failed { step: &'static str, source: Error },
    #[error("{0}: no answer within {ANSWER:?}")]
    Slow(&'static str),
    #[error("the lease was lost")]
    Lease,
    #[error("changes were compacted away: reads all anew")]
    Compacted,
    #[error("the watch ended: {0}")]
    Watch(String),
    #[error("read {path}")]
    File {
        path: String,
        source: std::io::Error,
    },
}

/// Keeps a node and etcd of one mind, for ever.
pub(crate) async fn run(federated: Federated, settings: EtcdSettings) {
    let registry = Registry {
        prefix: format!("{}/", settings.prefix.trim_end_matches('/')),
        federated,
        settings,
    };
    let state = &registry.federated.shared.registry;
    let (first, longest) = PAUSE;
    let mut pause = first;
    let endpoints = &registry.settings.endpoints;
    // One at a time: a request to several waits for the one that is dead.
    let mut turn = rand::random_range(0..endpoints.len());
    loop {
        let endpoint = &endpoints[turn % endpoints.len()];
        turn += 1;
        let ended = Box::pin(registry.session(endpoint, &mut pause)).await;
        let was_up = state.up.swap(false, Ordering::Relaxed);
        state.failures.fetch_add(1, Ordering::Relaxed);
        let error = chain(&ended);
        // Once for each outage.
        if was_up || pause == first {
            warn!(
                endpoint,
                error, "etcd is lost: works from what is known, and tries again"
            );
        }
        if was_up {
            continue;
        }
        tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
        pause = pause.saturating_mul(2).min(longest);
    }
}

struct Registry {
    federated: Federated,
    settings: EtcdSettings,
    prefix: String,
}

async fn within<T>(
    step: &'static str,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Ended> {
    match tokio::time::timeout(ANSWER, work).await {
        Ok(done) => done.map_err(|source| Ended::Failed { step, source }),
        Err(_) => Err(Ended::Slow(step)),
    }
}

impl Registry {
    fn folder(&self, what: &str) -> String {
        let federation = self.federated.member().federation();
        format!("{}{federation}/{what}/", self.prefix)
    }

    /// One connection, from its first look to whatever ends it.
    async fn session(&self, endpoint: &str, pause: &mut Duration) -> Ended {
        match Box::pin(self.open(endpoint)).await {
            Ok(open) => {
                info!("etcd is reached: members and functions are registered");
                self.federated
                    .shared
                    .registry
                    .up
                    .store(true, Ordering::Relaxed);
                *pause = PAUSE.0;
                self.watch(open).await
            }
            Err(ended) => ended,
        }
    }

    async fn open(&self, endpoint: &str) -> Result<Open, Ended> {
        let options = self.options()?;
        let mut client = within("connect", Client::connect([endpoint], Some(options))).await?;
        let lease = within("take a lease", client.lease_grant(LEASE, None)).await?;
        let kept = within("keep the lease", client.lease_keep_alive(lease.id())).await?;
        let mut open = Open {
            lease: lease.id(),
            kept,
            registered: Vec::new(),
            functions: None,
            members: None,
            client: client.clone(),
        };
        self.register(&mut open).await?;
        let (functions, members) = (self.folder("functions"), self.folder("members"));
        let mut there = HashSet::new();
        let revision = self.read_all(&mut client, &functions, &mut there).await?;
        open.functions = Some(watched(&mut client, &functions, revision).await?);
        let revision = self
            .read_all(&mut client, &members, &mut HashSet::new())
            .await?;
        open.members = Some(watched(&mut client, &members, revision).await?);
        // What etcd lacks, or has of an older version.
        self.federated.register_all(&there);
        Ok(open)
    }

    fn options(&self) -> Result<ConnectOptions, Ended> {
        let settings = &self.settings;
        let read = |path: &std::path::Path| {
            std::fs::read_to_string(path).map_err(|source| Ended::File {
                path: path.display().to_string(),
                source,
            })
        };
        let mut options = ConnectOptions::new()
            .with_connect_timeout(ANSWER)
            .with_keep_alive(RENEW, ANSWER)
            .with_require_leader(true);
        if let (Some(user), Some(path)) = (&settings.user, &settings.password_file) {
            let password = weir_node::private::read_line(path, 1);
            let password = password.map_err(|source| Ended::File {
                path: path.display().to_string(),
                source,
            })?;
            options = options.with_user(user, password);
        }
        if settings.ca.is_some() || settings.certificate.is_some() {
            let mut tls = TlsOptions::new();
            if let Some(path) = &settings.ca {
                tls = tls.ca_certificate(Certificate::from_pem(read(path)?));
            }
            if let (Some(certificate), Some(key)) = (&settings.certificate, &settings.key) {
                tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
            }
            options = options.with_tls(tls);
        }
        Ok(options)
    }

    /// Reads all keys of a folder; returns the revision as of which. What stands
    /// there is added to `there`.
    async fn read_all(
        &self,
        client: &mut Client,
        folder: &str,
        there: &mut HashSet<[u8; 8]>,
    ) -> Result<i64, Ended> {
        let end = range_end(folder);
        let mut start = folder.as_bytes().to_vec();
        let mut revision = None;
        let mut read = 0;
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE);
            let options = match revision {
                // All pages as of one moment.
                Some(revision) => options.with_revision(revision),
                None => options,
            };
            let page = within("read keys", client.get(start.clone(), Some(options))).await?;
            let at = page.header().map_or(0, |header| header.revision());
            let at = *revision.get_or_insert(at);
            for pair in page.kvs() {
                there.insert(message::identity(pair.value()));
                self.hear(pair);
            }
            read += page.kvs().len();
            match page.kvs().last() {
                Some(last) if page.more() && read < KEYS => {
                    start = [last.key(), &[0]].concat();
                }
                Some(_) | None => return Ok(at),
            }
        }
    }

    /// Takes what is registered, as if somebody had told it.
    fn hear(&self, pair: &KeyValue) {
        let shared = &self.federated.shared;
        let key = pair.key_str().unwrap_or_default();
        if key.starts_with(&self.folder("functions")) {
            if pair.value().len() <= ENVELOPE_BYTES && shared.hear(pair.value()) == Verdict::Accept
            {
                self.federated.pass_on(pair.value());
            }
            return;
        }
        let Ok(member) = cbor4ii::serde::from_slice::<Registered>(pair.value()) else {
            return;
        };
        let Ok((peer, Message::Introduction(_))) = message::open(&member.introduction) else {
            return;
        };
        if peer == shared.id {
            return;
        }
        shared.hear(&member.introduction);
        if shared.member.rights(&peer).is_none() {
            return;
        }
        for text in member.addresses.iter().take(ADDRESSES) {
            if let Ok(address) = text.parse() {
                shared.happened(Happening::Found { peer, address });
            }
        }
    }

    /// Somebody deleted a key: a removal is a record, so this one belongs there.
    fn miss(&self, pair: &KeyValue) {
        let folder = self.folder("functions");
        let name = pair
            .key_str()
            .ok()
            .and_then(|key| key.strip_prefix(&folder));
        if let Some(name) = name.and_then(|name| name.parse().ok()) {
            self.federated.register_later(name);
        }
    }

    /// Says who this node is and where, if that is not what it said last.
    async fn register(&self, open: &mut Open) -> Result<(), Ended> {
        let Some(member) = self.registered() else {
            return Ok(());
        };
        let encoded = cbor4ii::serde::to_vec(Vec::new(), &member);
        let encoded = encoded.expect("plain values can be encoded");
        if encoded == open.registered {
            return Ok(());
        }
        let key = format!("{}{}", self.folder("members"), self.federated.shared.id);
        let options = PutOptions::new().with_lease(open.lease);
        let put = open.client.put(key, encoded.clone(), Some(options));
        within("register this node", put).await?;
        open.registered = encoded;
        Ok(())
    }

    fn registered(&self) -> Option<Registered> {
        let shared = &self.federated.shared;
        let certificate = shared.member.certificate()?;
        let introduction = message::seal(&Message::Introduction(certificate), &shared.key);
        Some(Registered {
            introduction: introduction.ok()?.into(),
            addresses: self.federated.own().addresses,
        })
    }

    async fn watch(&self, mut open: Open) -> Ended {
        let mut renew = tokio::time::interval(RENEW);
        let changed = &self.federated.shared.registry.changed;
        loop {
            let (Some(functions), Some(members)) = (&mut open.functions, &mut open.members) else {
                return Ended::Watch("it was never begun".to_owned());
            };
            let heard = tokio::select! {
                news = functions.message() => self.hear_news(news),
                news = members.message() => self.hear_news(news),
                () = changed.notified() => Ok(()),
                _ = renew.tick() => self.renew(&mut open).await,
            };
            let told = match heard {
                Ok(()) => self.tell(&mut open.client).await,
                Err(ended) => Err(ended),
            };
            if let Err(ended) = told {
                return ended;
            }
        }
    }

    fn hear_news(&self, news: Result<Option<WatchResponse>, Error>) -> Result<(), Ended> {
        let step = "watch keys";
        let news = news.map_err(|source| Ended::Failed { step, source })?;
        let news = news.ok_or_else(|| Ended::Watch("etcd closed it".to_owned()))?;
        if news.compact_revision() > 0 {
            return Err(Ended::Compacted);
        }
        if news.canceled() {
            return Err(Ended::Watch(news.cancel_reason().to_owned()));
        }
        for event in news.events() {
            match (event.event_type(), event.kv()) {
                (EventType::Put, Some(pair)) => self.hear(pair),
                (EventType::Delete, Some(pair)) => self.miss(pair),
                (EventType::Put | EventType::Delete, None) => {}
            }
        }
        Ok(())
    }

    async fn renew(&self, open: &mut Open) -> Result<(), Ended> {
        let (keeper, answers) = &mut open.kept;
        within("renew the lease", keeper.keep_alive()).await?;
        let answer = within("renew the lease", answers.message()).await?;
        if answer.is_none_or(|answer| answer.ttl() <= 0) {
            return Err(Ended::Lease);
        }
        self.register(open).await
    }

    /// Writes some of what this node knows and etcd does not; the lease wants to
    /// be renewed in between.
    async fn tell(&self, client: &mut Client) -> Result<(), Ended> {
        for _ in 0..TOLD {
            let Some(name) = self.federated.next_unregistered() else {
                return Ok(());
            };
            if let Err(ended) = self.write(client, &name).await {
                self.federated.register_later(name);
                return Err(ended);
            }
        }
        self.federated.shared.registry.changed.notify_one();
        Ok(())
    }

    async fn write(&self, client: &mut Client, name: &FunctionName) -> Result<(), Ended> {
        let key = format!("{}{}", self.folder("functions"), name.qualified());
        for _ in 0..TRIES {
            let there = within("read a function", client.get(key.clone(), None)).await?;
            let there = there.kvs().first();
            if let Some(pair) = there {
                self.hear(pair);
            }
            let Some(entry) = self.federated.entry(name) else {
                return Ok(());
            };
            if there.is_some_and(|pair| pair.value() == entry.sealed) {
                return Ok(());
            }
            let revision = there.map_or(0, KeyValue::mod_revision);
            let put = TxnOp::put(key.clone(), entry.sealed.to_vec(), None);
            let unchanged = Compare::mod_revision(key.clone(), CompareOp::Equal, revision);
            let txn = Txn::new().when([unchanged]).and_then([put]);
            if within("write a function", client.txn(txn))
                .await?
                .succeeded()
            {
                let writes = &self.federated.shared.registry.writes;
                writes.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
        }
        // Others write it all the time, and are heard.
        Ok(())
    }
}

/// A session with etcd.
struct Open {
    client: Client,
    lease: i64,
    kept: (LeaseKeeper, LeaseKeepAliveStream),
    /// What this node said of itself last.
    registered: Vec<u8>,
    functions: Option<WatchStream>,
    members: Option<WatchStream>,
}

async fn watched(client: &mut Client, folder: &str, after: i64) -> Result<WatchStream, Ended> {
    let options = WatchOptions::new()
        .with_prefix()
        .with_start_revision(after + 1);
    within("watch keys", client.watch(folder, Some(options))).await
}

/// The first key after all that begin with `folder`, whose last byte is a slash.
fn range_end(folder: &str) -> Vec<u8> {
    let mut end = folder.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}
