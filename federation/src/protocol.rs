//! The wire, message by message, so that somebody else's program can take part.
//!
//! This page is what `weir-tests::foreign` was written from: a member that uses
//! nothing of this code. Numbers are big-endian where nothing else is said. CBOR
//! is RFC 8949; structures are maps whose keys are texts, readers skip keys that
//! they do not know, and keys marked *optional* have the default that is named.
//! Ids of nodes (`PeerId`) are libp2p's, of Ed25519 keys; as bytes they are the
//! multihash, which holds the key itself.
//!
//! # 1. Links
//!
//! TCP, or QUIC, or a relayed connection (libp2p's circuit relay, version 2).
//! * TCP and relayed: multistream-select `/weir/1/noise`, then Noise (libp2p's
//!   XX handshake), then the **proof** of section 2 on the encrypted stream, then
//!   multistream-select `/yamux/1.0.0`. At most 512 streams on a connection. Who
//!   accepted a TCP connection from an address at which a member listens, and
//!   hears nothing for 700 ms, begins in the other's place: of two that open holes
//!   in their firewalls for each other (DCUtR) one waits to be spoken to.
//! * QUIC: libp2p's QUIC; the proof has the first bidirectional stream that the
//!   opener opens, to itself.
//!
//! All of that within 10 s (5 s at the opener's side). Nothing else is said to
//! one who has not proved to be a member.
//!
//! | protocol on a link | what it is |
//! |---|---|
//! | `/weir/beat/1` | section 3 |
//! | `/weir/sync/1` | section 4 |
//! | `/weir/calls/1` | section 6 |
//! | `/weir/gossip/1` | gossipsub 1.1, section 4 |
//! | `/weir/kad/1` | Kademlia for finding members; nobody stores anything |
//! | libp2p's identify, circuit relay, DCUtR, AutoNAT 2 | as libp2p has them |
//!
//! A member may do without any of these but the proof; whoever does not answer
//! beats is not kept as a link.
//!
//! # 2. Proof of membership
//!
//! Both words are framed as `u16 length`, then so many bytes of CBOR, at most
//! 16 KiB. The opener says hello, the other replies; then the connection is a
//! member's, or ends.
//!
//! | hello | type | |
//! |---|---|---|
//! | `versions` | array of u16 | versions of this page that it speaks; this is 1 |
//! | `certificate` | bytes, *optional* | its certificate |
//! | `token` | text, *optional* | the invite that it trades for one |
//! | `successions` | array of bytes, *optional* | changes of the federation's secret, the oldest first |
//!
//! | reply | type | |
//! |---|---|---|
//! | `version` | u16 | the one that both speak from now on |
//! | `certificate` | bytes, *optional* | the certificate of whoever replies |
//! | `issued` | bytes, *optional* | a new certificate for the opener: it joined, or its own was worn |
//! | `refused` | array of two texts, *optional* | why the connection ends: a word, and a sentence |
//! | `denials` | array of bytes, *optional* | who is no member any more, or is one again, at most 32 |
//! | `successions` | as above | |
//!
//! **Statements** are what the federation's secret signs, at most 4 KiB: CBOR
//! `{statement: bytes, signature: bytes}`, where `statement` is CBOR and the
//! signature (Ed25519, by the key that `federation` is) is over a word, a zero
//! byte, and the statement. Times are seconds since 1970.
//!
//! | statement | word | fields |
//! |---|---|---|
//! | invite | `weir invite 1` | `federation` bytes(32), `id` bytes(16), `expires`, `rights`, `bootstrap`: at most 16 multiaddresses |
//! | certificate | `weir membership 1` | `federation`, `member` bytes, `rights`, `issued`, `expires` |
//! | denial | `weir denial 1` | `federation`, `member`, `at` |
//! | allowance | `weir allowance 1` | `federation`, `member`, `at`: takes a denial back; sent as one |
//! | succession | `weir succession 1` | `federation`, `successor` bytes(32), `at` |
//!
//! `rights` is `{role: "edge" or "cloud", deploy: bool}`. A **token** is
//! `weir1-` and the signed invite in base64url without padding. Clocks may differ
//! by 300 s.
//!
//! # 3. Beats
//!
//! On `/weir/beat/1` the opener writes 12 bytes, `u64 number` and `u32` its last
//! round trip in microseconds (0: none yet), and the other writes them back. The
//! next follows 500 ms after. 1.25 s of silence is taken for a break.
//!
//! # 4. Messages
//!
//! Everything that members tell everybody is an **envelope**, at most 33,280
//! bytes, passed on unchanged:
//!
//! | envelope | type | |
//! |---|---|---|
//! | `from` | bytes | who says it |
//! | `kind` | u8 | the table below; others are passed on unread |
//! | `payload` | bytes, at most 32 KiB | |
//! | `signature` | bytes | by `from`, over `weir gossip 1`, a zero byte, the kind as a byte, the payload |
//!
//! Its identity for gossip is the first 8 bytes of the SHA-256 of the whole
//! envelope. Gossipsub messages are anonymous (no author, number or signature of
//! gossipsub's own), at most 1 KiB larger than envelopes; control messages at
//! most 64 KiB. Topics: `weir/1/all`, `weir/1/zone/NAME` for edge nodes,
//! `weir/1/region/NAME` for cloud nodes.
//!
//! On `/weir/sync/1` a member tells another envelopes that it may have missed:
//! `u32` length of the topic (at most 256), `u32` length of the envelope, the
//! topic, the envelope; at most 4,096 of them within 30 s, and then the stream is
//! closed. What is new is passed on where its topic is heard.
//!
//! A link that brings more than 2,000 messages or 4 MiB of them in a second is
//! not listened to for the rest of it; one that brings 16 messages which no honest
//! member says is cut, and refused for a minute. Of one member's suspicions 64 a
//! minute are heard.
//!
//! | kind | payload |
//! |---|---|
//! | 1 report | CBOR, below |
//! | 2 suspicion | `{whom: bytes, epoch: u64}`: that life of a member seems to be over; whoever is meant begins a new one |
//! | 3 leave | `{epoch: u64}` |
//! | 4 introduction | the sender's certificate, as it was issued |
//! | 5 denial | a denial, as it was signed |
//! | 6 handover | `{succession: bytes, certificate: bytes}`: one member's certificate under the new secret |
//! | 7 record | section 5 |
//! | 8 summary | section 5; told on a link, never gossiped |
//! | 9 forget | `{whom: bytes, at: u64, certificate: bytes}`: whoever that is becomes a newcomer if it was away then and is back since less than ten minutes, once in an hour at the most: it puts aside what it knew of functions, tells none of it, and says so in `forgotten` of its reports, as it does if it was not away. At most 4 KiB with its envelope. `certificate` is the sender's, as in a record; `at` lies within the last eight days; of one member's 64 a minute are heard, suspicions included, and 128 kept |
//! | 10 roster | `{digest: u64, marks: bytes, optional, ask: bool, optional}`: whom a member knows, told on a link and never gossiped. A mark is the first 6 bytes of the SHA-256 of an id as bytes, of each member that was introduced and is heard, the sender included; `marks` are all of them in order, `digest` the first 8 bytes of the SHA-256 of that. Without `marks`: whoever knows others answers with a roster that has them, and `ask`. With them: whoever hears it tells introductions and reports of those that are missing, and, if `ask` and it misses some, its own marks without `ask`. Of one link eight a second are heard |
//!
//! **Report.** A later (`epoch`, `sequence`) replaces an earlier one. A member
//! sends at most max(0.2, min(5, 60/N)) a second, N members in its zone, and its
//! short form (`brief`, without offers) to everybody, seldom.
//!
//! | field | type | bounds |
//! |---|---|---|
//! | `epoch` | u64 | below 2^63; which life of the node this is, greater than that of any before |
//! | `sequence` | u64 | |
//! | `role` | `edge` (default), `cloud` | as in its certificate |
//! | `zone`, `region` | text, *optional* | 256 bytes |
//! | `architecture` | text, *optional* | 256 bytes; Rust's name |
//! | `executors` | array of text, *optional* | 32, of 256 bytes: `wasm`, `docker`, `simulated` |
//! | `labels` | map of text to text, *optional* | 32 |
//! | `draining`, `brief` | bool, *optional* | |
//! | `abilities` | u64, *optional* | counts changes of its secrets: what it could not run before, it may now |
//! | `load` | map, *optional* | below |
//! | `coordinate` | `{position: [i64; 3], height: i64, error: i64}`, *optional* | microseconds, and thousandths |
//! | `addresses` | array of multiaddresses, *optional* | 8 |
//! | `carriage` | array of `ADDRESS:PORT`, *optional* | 8 |
//! | `forgotten` | u64, *optional* | the latest `at` of a kind 9 about it that it answers |
//! | `offers` | array, *optional* | 256 |
//!
//! `load`: `cpu_total`, `cpu_free`, `guest_cpu`, `guest_cpu_long` (u32, thousandths
//! of a core, total at most 10^8, the others no more than total; the last two are
//! what calls of others may take now, those that run up to a second and longer
//! ones), `memory_total`, `memory_free`, `disk_free` (u64, bytes, at most 2^46; disk
//! for code), `running`, `waiting` (u32, at most 10^7). An offer tells what is
//! unusual about a function: that it has instances or calls there, or is `full`
//! (bool: its own bound leaves no place). `function` (`name.namespace`), `warm`,
//! `startable`, `running` (u32, at most 10^7), `service_micros`, `start_micros`
//! (u64, at most a day). A member can run every function in whose scope it is, and
//! whose executor, processor and labels it has, whether it offers it or not.
//!
//! # 5. Functions
//!
//! **Record.** What one member says of one name:
//!
//! | field | type | |
//! |---|---|---|
//! | `name` | text | `name.namespace` |
//! | `version` | u64 | the later holds; of equal ones that of the greater writer, by the bytes of its id. More than 2^32 beyond what is known is refused |
//! | `topic` | text, *optional* | of those who may know it; none for all |
//! | `spec` | bytes or null | CBOR of the function; null when it was removed |
//! | `code` | map, *optional* | `digest` bytes(32) SHA-256 of the artifact, `bytes` u64, `chunks` bytes(32) |
//! | `removed` | u64, *optional* | when it was removed, in seconds since 1970: of removals, which are forgotten, and not heard any more, eight days after |
//! | `certificate` | bytes | of the writer: with the right to deploy; it may have expired since |
//!
//! Numbers of a function have bounds: durations are at most 100 times 366 days,
//! `concurrency`, `min` and `max` 10^7, `copies` 16, `durability.copies` 2. Who
//! says more is taken to mean that. Beyond what a node gives (its longest timeout,
//! its memory, its classes) a record is kept and passed on, and not run there.
//!
//! `chunks` is the SHA-256 of the list of the SHA-256 of each MiB of the artifact.
//!
//! **Summary.** `{marks: array of 64 u64, ask: bool}`. Names fall into 64 parts
//! by the first byte of the SHA-256 of `name.namespace`, modulo 64; a mark is the
//! exclusive or of the first 8 bytes of the SHA-256 of each envelope of the part,
//! of those that both may know. Whoever hears one that differs tells the records
//! of the parts that differ, and its own summary if `ask`: not to one that was
//! forgotten and does not say yet that it heard so, which tells nothing unasked.
//!
//! # 6. Calls
//!
//! HTTP/2 without upgrade, on a TCP connection to an address of `carriage` with
//! mutual TLS 1.3 (libp2p's TLS specification, ALPN `weir/1`, no resumption), and
//! then the proof of section 2 before the first byte of HTTP; or on a stream
//! `/weir/calls/1` of a link. Header `x-weir-carriage` holds CBOR in base64url,
//! at most 4 KiB of text.
//!
//! | with a call | type | |
//! |---|---|---|
//! | `function` | text | `name.namespace` |
//! | `call` | text | its id: 32 hexadecimal digits |
//! | `visited` | array of bytes, *optional* | nodes before the sender, at most 16 |
//! | `hops` | u8 | how many more nodes may have it; taken as at most 2 |
//! | `left` | u64, *optional* | milliseconds of its deadline |
//! | `class` | text, *optional* | QoS class |
//! | `region`, `zone` | text, *optional* | where the sender is |
//! | `version` | u64, *optional* | of the function's record that the sender knows |
//! | `wait` | u64, *optional* | milliseconds that it may wait for a place |
//! | `service` | u64, *optional* | microseconds that it is expected to run |
//!
//! | with an answer | type | |
//! |---|---|---|
//! | `kind` | text | `answer`; `refused`: it has not begun; `late`, `function-failed`, `peer-lost`, `body`: the body says what happened |
//! | `told` | map, *optional* | what the node says of itself, below |
//! | `cold` | bool, *optional* | |
//! | `micros` | array of three u64, *optional* | it waited, was started for, ran |
//! | `ran_on` | text, *optional* | the node that ran it, where it is another |
//!
//! `told`, as it is for the one who is told: `load` (as in a report), `places` (u32:
//! calls of the function that it takes now; absent where it does not have it),
//! `held` (u32: calls of the function that it holds of the one who is told, this
//! one not included), `streams` (bool: this call keeps its place until its answer
//! was read), `level` (u64, *optional*: it admits of this call's QoS class 1 of 128
//! calls for each step, and tells that while it has no place; absent for all), and
//! of what it refused `why` and `ready_in` (u64, milliseconds). `why`:
//! `node-full`; `function-full`; `unable`, and the body says why; `bringing`: the
//! code is on its way and expected in `ready_in`; anything else says nothing of
//! its room.
//!
//! **Questions.** A request with header `x-weir-look` asks for places, and has the
//! code brought: `function`, `version`, `bring` (bool), `most` (u32, places wanted),
//! `wait` (u64, milliseconds to wait for a place or for the code, at most 5,000),
//! `service`. The answer's `x-weir-carriage` holds `told` and `text`. Free places
//! are promised to the one who asked for 100 ms, or two round trips if that is
//! longer; who waits is told in turn, the one first that has the least there. A
//! question without `function` asks only whether the node answers; it is asked of
//! members that could not be reached, after pauses of 0.5 s doubling to 30 s.
//!
//! **Code.** `GET /artifacts/list` and `GET /artifacts/N` with header
//! `x-weir-artifact` (SHA-256 in hexadecimal): the list of digests, and part N of
//! 1 MiB. 200, 400 (no number, or no digest), 404 (not here, or not for you), 503
//! (busy: ask another, or again). With header `range: bytes=A-B`, bytes A to B of
//! part N, both counted from 0 and both in it: 206, or 416 for any other range.
//! `GET /artifacts/layers`: which layers an image archive has, at most 256 rows of
//! 48 bytes: a layer's SHA-256, then its place and length in the archive in 8 bytes
//! each, the greatest first; of rows that overlap one is believed. Whoever has a
//! layer elsewhere need not ask for its bytes (and lets the holder know so); the
//! list's digests say whether they are the right ones.
//! `POST /artifacts/keep` with the same header and, as its body, the envelope of a
//! record with that code: asks a member to keep the code. 200 when it does, 409
//! when it knows a later record, 503 when it cannot.
//!
//! # 7. Asynchronous calls
//!
//! `POST /calls` over the same HTTP/2 with header `x-weir-calls`, which says what
//! is wanted. The body is framed: the length of a CBOR value in four bytes, the
//! greatest first and at most 256 KiB; that value; and then, where it says so, the
//! bytes of a body. A list of ids has at most 1,000 (each a text of 32 hexadecimal
//! digits). Empty answers but where it says otherwise; 501 for other wants.
//!
//! | want | words | then | answers |
//! |---|---|---|---|
//! | `keep` | `{note, told?}` | the call's body, with `told` | 200: it is on disk. 403: not yours to say. 404: without `told`, and there is no copy. 409: this node runs it. 410: it has ended. 413, 503, 507: it cannot |
//! | `hand` | `{told}` | the call's body | 200: it is this node's now. 403, 413, 503, 507: it is not |
//! | `ended` | `{id, result?}` | the result's body, with `result` | 200. 403: not yours to say |
//! | `standing` | list of ids | | 200 and, as CBOR, an array of numbers: 0 unknown, 1 a copy, 2 to be run or running, 3 ended, 4 to be run and your copy is one too many |
//! | `release` | list of ids | | 200: others keep copies in your place. 503: not all |
//! | `drop` | list of ids | | 200: copies of these calls of yours are gone |
//! | `result` | list of one id | | 200 and, framed, `{result, bytes}` and the result's body of so many bytes. 202: it has not ended. 404: unknown. 410: ended, and the result is kept no more |
//!
//! `note` says whose a copy is: `id` text; `owner` bytes, the node that runs the
//! call; `turn` u8, 1 or 2; `copies` array of bytes, all that keep one, by their
//! turns. A note is taken from the owner that is known, or that a new one names;
//! when that one is gone, from one of the known `copies` that names itself as
//! owner, which has taken over. How a call ended is taken from its owner alone.
//! The copy whose turn is `k` takes over when the owner is gone for `k` times
//! `federation.takeover`, after it asked the others (`standing`). Who keeps a copy
//! is trusted with that call: it may say that it ran what it did not.
//!
//! `told` is `{call, age}`: milliseconds since it was accepted, and a map of `id`,
//! `function` (`name.namespace`), `method`, `path` with the query, `headers` (array
//! of `[text, bytes]`), `body` (ignored), `class`, `deadline` and `accepted_at`
//! (RFC 3339, by the sender's clock: only their distance counts), `callback`,
//! `caller_id`, `attempts` u32, `durable` u8: how many copies there should be.
//! `result` is a map of `function`, `status` u16, `headers`, `body` (ignored),
//! `error` text or null, `accepted_at`, `ended_at`, `duration`, `attempts`,
//! `caller_id`.
