//! Notices, about whatever system's orders: that the customer was told something is part of the history.

use mesh::{Event, Policy, Result, Tx, whenever};
use proto::notice::v1::Noticed;

use crate::store::tell;

pub(crate) fn policies() -> [Policy; 1] {
    [whenever("tell in the history that the customer was told", whenever_noticed).from_start()]
}

fn whenever_noticed(tx: &mut Tx<'_>, event: &Event<Noticed>) -> Result<()> {
    // Customers are told of what is no order of theirs, too.
    if !super::is_order(&event.order) {
        return Ok(());
    }
    tell(tx, event, &event.order, &event.recipient)
}
