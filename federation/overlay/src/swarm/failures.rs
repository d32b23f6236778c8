//! Why somebody was not reached: as evidence, and in words for people.

use std::error::Error;
use std::io;

use libp2p::core::transport::TransportError;
use libp2p::swarm::DialError;
use weir_federation_core::failure::DialEnd;

use crate::proof::REFUSED;

/// How a dial ended, as evidence. Of several addresses the one counts at which
/// most was heard.
pub(super) fn dial_end(error: &DialError) -> DialEnd {
    let tried = match error {
        DialError::Transport(tried) => tried,
        DialError::Denied { .. } | DialError::Aborted | DialError::DialPeerConditionFalse(_) => {
            return DialEnd::NotTried;
        }
        DialError::WrongPeerId { .. } | DialError::NoAddresses | DialError::LocalPeerId { .. } => {
            return DialEnd::Unreached;
        }
    };
    let ends = tried.iter().map(|(_, error)| transport_end(error));
    let heard = |end: &DialEnd| match end {
        DialEnd::TurnedAway => 4,
        DialEnd::Dropped => 3,
        DialEnd::Refused => 2,
        DialEnd::Unreached => 1,
        DialEnd::NotTried => 0,
    };
    ends.max_by_key(heard).unwrap_or(DialEnd::Unreached)
}

fn transport_end(error: &TransportError<io::Error>) -> DialEnd {
    let TransportError::Other(error) = error else {
        return DialEnd::Unreached;
    };
    let text = chain(error);
    if text.contains("onnection refused") {
        return DialEnd::Refused;
    }
    // What was wrapped several times is a text by now: `ProofError`'s.
    if text.contains(REFUSED) {
        return DialEnd::TurnedAway;
    }
    let ends = [
        io::ErrorKind::UnexpectedEof,
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::ConnectionAborted,
        io::ErrorKind::BrokenPipe,
    ];
    match kinds(error).any(|kind| ends.contains(&kind)) {
        true => DialEnd::Dropped,
        false => DialEnd::Unreached,
    }
}

/// The kinds of the errors of a chain that have one.
fn kinds(error: &io::Error) -> impl Iterator<Item = io::ErrorKind> + '_ {
    let first: &(dyn Error + 'static) = error;
    let chain = std::iter::successors(Some(first), |error| beneath(*error));
    chain.filter_map(|error| Some(error.downcast_ref::<io::Error>()?.kind()))
}

/// What an error wraps, or comes from.
fn beneath<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>() {
        // What it wraps is not its source, but itself.
        Some(wrapping) => wrapping
            .get_ref()
            .map(|inner| inner as &(dyn Error + 'static)),
        None => error.source(),
    }
}

/// Why somebody was not reached, in words for people: libp2p's own are
/// structures with all that was tried.
pub(super) fn plainly(error: &DialError) -> String {
    match error {
        DialError::Transport(tried) => {
            let mut reasons: Vec<String> = tried
                .iter()
                .map(|(address, error)| {
                    let address = address.to_string();
                    let address = address.split("/p2p/").next().unwrap_or_default();
                    let reason = match error {
                        TransportError::MultiaddrNotSupported(_) => {
                            "addresses of this kind are not dialled".to_owned()
                        }
                        TransportError::Other(error) => innermost(error),
                    };
                    format!("{address}: {reason}")
                })
                .collect();
            reasons.dedup();
            reasons.join("; ")
        }
        DialError::WrongPeerId { obtained, .. } => {
            format!("another node answers there: {obtained}")
        }
        DialError::NoAddresses => "no address of it is known".to_owned(),
        DialError::LocalPeerId { .. } => "that is this node itself".to_owned(),
        DialError::Denied { .. } => "too many connections are being set up at once".to_owned(),
        DialError::Aborted | DialError::DialPeerConditionFalse(_) => {
            "the attempt was given up".to_owned()
        }
    }
}

/// The reason at the bottom of an error's chain; of the system's errors their
/// kind, without the number.
pub(crate) fn innermost(error: &io::Error) -> String {
    let mut reason = String::new();
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        let system = error.downcast_ref::<io::Error>();
        if let Some(system) = system.filter(|system| system.raw_os_error().is_some()) {
            return system.kind().to_string();
        }
        next = beneath(error);
        reason = error.to_string();
    }
    // Some were made texts before they came here.
    if let Some(at) = reason.find(" (os error") {
        reason.truncate(at);
    }
    reason.truncate(reason.floor_char_boundary(300));
    reason
}

/// An error with its causes: libp2p's own say little.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text.truncate(text.floor_char_boundary(600));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Refusal;
    use crate::proof::ProofError;

    #[track_caller]
    fn check(errors: impl IntoIterator<Item = io::Error>, expected: DialEnd) {
        let tried = errors.into_iter().map(|error| {
            let address = "/ip4/192.0.2.1/tcp/4001".parse().expect("an address");
            (address, TransportError::Other(error))
        });
        assert_eq!(dial_end(&DialError::Transport(tried.collect())), expected);
    }

    #[test]
    fn a_failed_dial_is_evidence_by_how_it_failed() {
        let refusal = || {
            let reason = "left";
            let text = "this node has left".to_owned();
            io::Error::other(ProofError::Refused(Refusal { reason, text }))
        };
        let system = |kind: io::ErrorKind| io::Error::from(kind);
        let refused = || io::Error::from_raw_os_error(111);
        check([refused()], DialEnd::Refused);
        check([io::Error::other(refused())], DialEnd::Refused);
        check([system(io::ErrorKind::TimedOut)], DialEnd::Unreached);
        check([system(io::ErrorKind::HostUnreachable)], DialEnd::Unreached);
        check([system(io::ErrorKind::UnexpectedEof)], DialEnd::Dropped);
        let reset = ProofError::Broken(system(io::ErrorKind::ConnectionReset));
        check([io::Error::other(reset)], DialEnd::Dropped);
        check([refusal()], DialEnd::TurnedAway);
        check([io::Error::other(refusal())], DialEnd::TurnedAway);
        // Somebody lives at one of its addresses.
        check([refused(), refusal()], DialEnd::TurnedAway);
        check([], DialEnd::Unreached);
        assert_eq!(dial_end(&DialError::Aborted), DialEnd::NotTried);
        assert_eq!(dial_end(&DialError::NoAddresses), DialEnd::Unreached);
    }
}
