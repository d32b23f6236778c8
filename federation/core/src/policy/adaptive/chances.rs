//! How likely it is that a call is refused or late, and what is told of that.

use super::{Look, Prediction};
use crate::policy::Terms;

/// How likely a refusal is, of a peer that refused such a share and says that it
/// has room, which is believed so much.
pub(super) fn doubt(refused: f64, believed: f64) -> f64 {
    refused * (1.0 - believed * (1.0 - refused) / 2.0)
}

/// At most how likely it is that something takes longer by `slack` than expected.
pub(super) fn late(slack: f64, variance: f64) -> f64 {
    match slack > 0.0 {
        true => variance / (variance + slack * slack),
        false => 1.0,
    }
}

pub(super) fn explain(terms: &mut Terms<'_>, look: &Look, of: &Prediction, score: f64) {
    terms.put("way_ms", of.way);
    terms.put("beside_ms", of.beside);
    terms.put("service_ms", of.service);
    terms.put("spread_ms", of.variance.sqrt());
    terms.put("refused_share", of.refused);
    terms.put("failed_share", of.failed);
    if look.chance_of_late {
        terms.put("late_share", late(look.left - of.total(), of.variance));
    }
    terms.put("score_ms", score);
}
