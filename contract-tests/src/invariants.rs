//! What must hold of a whole system, whatever died when: every rule is a query that finds what breaks it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::path::Path;

use crate::stores;

/// A rule, and the query that finds what breaks it.
pub type Rule = (&'static str, &'static str);

/// What must hold of a system. In its queries each store has a letter.
#[derive(Debug)]
pub struct Laws {
    /// The stores: the letter, and the file.
    pub stores: &'static [(&'static str, &'static str)],
    /// Every order that is registered.
    pub orders: &'static str,
    /// Those that are cancelled.
    pub cancelled: &'static str,
    /// All that orders have brought about and not undone, wherever it is.
    pub effects: &'static str,
    /// The orders whose undo failed, however often.
    pub failed_undos: &'static str,
    /// What holds at every moment.
    pub always: &'static [Rule],
    /// What holds when everything that was begun has come to its end.
    pub finally: &'static [Rule],
}

/// The film purchase.
pub const HOMEMOVIE: Laws = Laws {
    stores: &[
        ("a", "homemovie.app"),
        ("f", "homemovie.movie"),
        ("p", "payment"),
        ("c", "payment-provider"),
        ("y", "mypage"),
    ],
    orders: "SELECT name FROM a.movie_application",
    cancelled: "SELECT name FROM a.movie_application WHERE state = 'MOVIE_CANCELLED'",
    effects: "SELECT 'registered ' || name AS name FROM a.movie_application WHERE state <> 'MOVIE_CANCELLED'
      UNION ALL SELECT 'bought ' || application FROM f.movie_purchase WHERE state <> 'MOVIE_CANCELLED'
      UNION ALL SELECT 'paid ' || order_name FROM p.payment WHERE state = 'APPROVED'
      UNION ALL SELECT 'charged ' || key FROM c.provider_charge WHERE state = 'CHARGED' AND amount > refunded
      UNION ALL SELECT 'shown ' || name FROM y.my_order WHERE visible",
    failed_undos: "SELECT name FROM a.mesh_intent WHERE undo_attempts > 0",
    always: &[REFUNDS_IN_BOUNDS, ONE_REFUND],
    finally: &[
        NO_OPEN_PAYMENT,
        NO_REFUND_DUE,
        BOOKS_AGREE,
        ("I-12 no order is between two states", "SELECT name FROM a.mesh_intent WHERE state IN ('PENDING', 'VOIDING')"),
        (
            "I-12 every application has been decided",
            "SELECT name FROM a.movie_application WHERE state IN ('MOVIE_PICKED', 'MOVIE_APP_CANCELLED')",
        ),
        (
            "I-03 what is live is paid",
            "SELECT o.name FROM a.movie_application o WHERE state <> 'MOVIE_CANCELLED' AND NOT EXISTS (
               SELECT 1 FROM p.payment WHERE order_name = o.name AND state = 'APPROVED' AND amount = o.price)",
        ),
        (
            "I-03 what is paid is live",
            "SELECT order_name AS name FROM p.payment WHERE state = 'APPROVED' AND order_name NOT IN (
               SELECT name FROM a.movie_application WHERE state <> 'MOVIE_CANCELLED')",
        ),
        (
            "I-09 who paid for a film has it, and nobody else",
            "SELECT o.name FROM a.movie_application o LEFT JOIN f.movie_purchase b ON b.application = o.name
               WHERE (o.state <> 'MOVIE_CANCELLED') <> coalesce(b.state IN ('MOVIE_ORDERED', 'MOVIE_WATCHED'), 0)",
        ),
        (
            "I-14 my page shows what is",
            "SELECT o.name FROM a.movie_application o LEFT JOIN y.my_order v
               ON v.name = o.name AND v.generation = (SELECT current FROM y.mesh_view)
               WHERE NOT coalesce(v.visible AND v.state = o.state, 0)",
        ),
        (
            "I-14 my page shows nothing else",
            "SELECT name FROM y.my_order WHERE visible AND generation = (SELECT current FROM y.mesh_view)
               AND name NOT IN (SELECT name FROM a.movie_application)",
        ),
        MY_PAGE_SHOWS_PAYMENTS,
        (
            "I-09 each event of an order is in its history",
            "SELECT event_id AS name FROM (
               SELECT event_id, correlation_id FROM a.mesh_event UNION ALL SELECT event_id, correlation_id FROM f.mesh_event
               UNION ALL SELECT event_id, correlation_id FROM p.mesh_event)
               WHERE correlation_id LIKE 'movieApplications/%' AND event_id NOT IN (
                 SELECT event_id FROM y.my_progress WHERE generation = (SELECT current FROM y.mesh_view))",
        ),
    ],
};

/// The musical reservation.
pub const OUTERPARK: Laws = Laws {
    stores: &[
        ("r", "outerpark.reservation"),
        ("m", "outerpark.musical"),
        ("p", "payment"),
        ("c", "payment-provider"),
        ("n", "notice"),
        ("y", "mypage"),
    ],
    orders: "SELECT name FROM r.reservation",
    cancelled: "SELECT name FROM r.reservation WHERE state = 'CANCELLED'",
    effects: "SELECT 'registered ' || name AS name FROM r.reservation WHERE state <> 'CANCELLED'
      UNION ALL SELECT 'held ' || reservation || seats FROM m.seat_hold WHERE NOT returned
      UNION ALL SELECT 'free ' || reservable_seats FROM m.musical
      UNION ALL SELECT 'paid ' || order_name FROM p.payment WHERE state = 'APPROVED'
      UNION ALL SELECT 'charged ' || key FROM c.provider_charge WHERE state = 'CHARGED' AND amount > refunded
      UNION ALL SELECT 'told ' || order_name || kind FROM n.notice
      UNION ALL SELECT 'shown ' || name FROM y.my_order WHERE visible",
    failed_undos: "SELECT name FROM r.mesh_intent WHERE undo_attempts > 0",
    always: &[
        REFUNDS_IN_BOUNDS,
        ONE_REFUND,
        (
            "I-01, I-02 the seats add up",
            "SELECT name FROM m.musical WHERE reservable_seats < 0 OR total_seats <> reservable_seats + (
               SELECT coalesce(sum(seats), 0) FROM m.seat_hold WHERE musical = name AND NOT returned)",
        ),
    ],
    finally: &[
        NO_OPEN_PAYMENT,
        NO_REFUND_DUE,
        BOOKS_AGREE,
        ("I-12 no order is between two states", "SELECT name FROM r.mesh_intent WHERE state IN ('PENDING', 'VOIDING')"),
        ("I-12 every reservation has been decided", "SELECT name FROM r.reservation WHERE state = 'SEATS_RESERVED'"),
        (
            "I-03 what is live is paid",
            "SELECT o.name FROM r.reservation o WHERE state = 'PAYMENT_APPROVED' AND NOT EXISTS (
               SELECT 1 FROM p.payment WHERE order_name = o.name AND state = 'APPROVED' AND amount = o.amount)",
        ),
        (
            "I-03 what is paid is live",
            "SELECT order_name AS name FROM p.payment WHERE state = 'APPROVED' AND order_name NOT IN (
               SELECT name FROM r.reservation WHERE state = 'PAYMENT_APPROVED')",
        ),
        (
            "I-13 who has seats is who reserved them",
            "SELECT reservation AS name FROM m.seat_hold WHERE NOT returned
               AND reservation NOT IN (SELECT name FROM r.reservation WHERE state = 'PAYMENT_APPROVED')
             UNION SELECT name FROM r.reservation WHERE state = 'PAYMENT_APPROVED'
               AND name NOT IN (SELECT reservation FROM m.seat_hold WHERE NOT returned)",
        ),
        (
            "I-09 who reserved was told",
            "SELECT name FROM r.reservation o WHERE state IN ('PAYMENT_APPROVED', 'PAYMENT_DECLINED', 'EXPIRED')
               AND NOT EXISTS (SELECT 1 FROM n.notice WHERE order_name = o.name AND kind = CASE o.state
                 WHEN 'PAYMENT_APPROVED' THEN 'confirmed' WHEN 'EXPIRED' THEN 'expired' ELSE 'declined' END)",
        ),
        (
            "I-09 who cancelled what was paid was told",
            "SELECT o.name FROM r.reservation o JOIN p.payment t ON t.order_name = o.name
               WHERE o.state = 'CANCELLED' AND (t.refunded > 0 OR o.confirmed)
               AND NOT EXISTS (SELECT 1 FROM n.notice WHERE order_name = o.name AND kind = 'cancelled')",
        ),
        (
            "I-14 my page shows what is",
            "SELECT o.name FROM r.reservation o LEFT JOIN y.my_order v
               ON v.name = o.name AND v.generation = (SELECT current FROM y.mesh_view)
               WHERE NOT coalesce(v.visible AND v.state = o.state, 0)",
        ),
        (
            "I-14 my page shows nothing else",
            "SELECT name FROM y.my_order WHERE visible AND generation = (SELECT current FROM y.mesh_view)
               AND name NOT IN (SELECT name FROM r.reservation)",
        ),
        MY_PAGE_SHOWS_PAYMENTS,
        (
            "I-09 each event of a reservation is in its history",
            "SELECT event_id AS name FROM (
               SELECT event_id, correlation_id FROM r.mesh_event UNION ALL SELECT event_id, correlation_id FROM m.mesh_event
               UNION ALL SELECT event_id, correlation_id FROM p.mesh_event
               UNION ALL SELECT event_id, correlation_id FROM n.mesh_event)
               WHERE correlation_id LIKE 'musicalReservations/%' AND event_id NOT IN (
                 SELECT event_id FROM y.my_progress WHERE generation = (SELECT current FROM y.mesh_view))",
        ),
    ],
};

const REFUNDS_IN_BOUNDS: Rule = (
    "I-03 no more is given back than was charged",
    "SELECT key AS name FROM c.provider_charge WHERE refunded < 0 OR refunded > amount
     UNION SELECT name FROM p.payment WHERE refunded < 0 OR refunded > amount",
);
const ONE_REFUND: Rule = (
    "I-05 an order is given back once",
    "SELECT subject AS name FROM p.mesh_event WHERE type LIKE '%.PaymentCancelled'
       GROUP BY subject HAVING count(*) > 1",
);
const NO_OPEN_PAYMENT: Rule = (
    "I-08 no payment is between two states",
    "SELECT name FROM p.payment WHERE state IN ('PENDING', 'REFUNDING')",
);
const NO_REFUND_DUE: Rule =
    ("I-08 nothing is due any more", "SELECT payment AS name FROM p.payment_refund_due");
const MY_PAGE_SHOWS_PAYMENTS: Rule = (
    "I-14 my page shows how it was paid",
    "SELECT v.name FROM y.my_order v JOIN p.payment o ON o.order_name = v.name
       WHERE v.visible AND v.generation = (SELECT current FROM y.mesh_view)
       AND v.payment_state <> CASE o.state WHEN 'VOIDED' THEN 'CANCELLED' ELSE o.state END",
);
const BOOKS_AGREE: Rule = (
    "I-05 the provider's own books say the same",
    "SELECT key AS name FROM c.provider_charge WHERE state = 'CHARGED' AND amount > refunded
       AND key NOT IN (SELECT name FROM p.payment WHERE state = 'APPROVED')
     UNION SELECT name FROM p.payment o WHERE state = 'APPROVED' AND NOT EXISTS (
       SELECT 1 FROM c.provider_charge WHERE key = o.name AND state = 'CHARGED' AND amount = o.amount AND refunded = 0)",
);

/// The stores of a system, and what must hold of them.
pub struct Stores {
    laws: &'static Laws,
    stores: stores::Stores,
}

impl std::fmt::Debug for Stores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Stores").field(&self.laws.stores).finish()
    }
}

impl Deref for Stores {
    type Target = stores::Stores;

    fn deref(&self) -> &stores::Stores {
        &self.stores
    }
}

impl Stores {
    /// The stores of a system in this folder.
    pub fn open(folder: &Path, laws: &'static Laws) -> Self {
        Self { laws, stores: stores::Stores::open(folder) }
    }

    /// Every order that is registered.
    pub fn orders(&self) -> BTreeSet<String> {
        self.names(self.laws.orders)
    }

    /// Those that are cancelled.
    pub fn cancelled(&self) -> BTreeSet<String> {
        self.names(self.laws.cancelled)
    }

    /// All that orders have brought about and not undone.
    pub fn effects(&self) -> BTreeSet<String> {
        self.names(self.laws.effects)
    }

    /// The orders whose undo failed.
    pub fn failed_undos(&self) -> BTreeSet<String> {
        self.names(self.laws.failed_undos)
    }

    /// What breaks a rule that holds at every moment.
    pub fn broken(&self) -> BTreeMap<&'static str, BTreeSet<String>> {
        let mut broken = self.breaking(self.laws.always);
        for (letter, _) in self.laws.stores {
            let of_store: [Rule; 2] = [
                (
                    "I-10 the log has no gap, and no aggregate's history has one",
                    "SELECT subject AS name FROM {s}.mesh_event GROUP BY subject HAVING max(sequence) <> count(*)
                     UNION SELECT 'the log of ' || value AS name FROM {s}.mesh_meta WHERE key = 'context'
                       AND (SELECT max(position) <> count(*) FROM {s}.mesh_event)",
                ),
                ("I-16 nothing is parked", "SELECT policy || ': ' || failure AS name FROM {s}.mesh_parked"),
            ];
            for (rule, query) in of_store {
                let found = self.names(&query.replace("{s}", letter));
                if !found.is_empty() {
                    broken.entry(rule).or_default().extend(found);
                }
            }
        }
        broken
    }

    /// What breaks a rule that holds at the end.
    pub fn unfinished(&self) -> BTreeMap<&'static str, BTreeSet<String>> {
        self.breaking(self.laws.finally)
    }

    fn breaking(&self, rules: &[Rule]) -> BTreeMap<&'static str, BTreeSet<String>> {
        let found = rules.iter().map(|(rule, query)| (*rule, self.names(query)));
        found.filter(|(_, names)| !names.is_empty()).collect()
    }
}
