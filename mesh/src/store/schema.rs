//! The kit's own tables, as `migrations/` makes them.
#![allow(
    missing_docs,
    unreachable_pub,
    reason = "the table! macro writes these items; migrations/ documents them"
)]

diesel::table! {
    mesh_meta (key) { key -> Text, value -> Text, }
}

diesel::table! {
    mesh_event (position) {
        position -> BigInt,
        event_id -> Text,
        #[sql_name = "type"]
        type_ -> Text,
        subject -> Text,
        sequence -> BigInt,
        time -> BigInt,
        correlation_id -> Text,
        causation_id -> Text,
        traceparent -> Text,
        partition -> Integer,
        data -> Binary,
    }
}

diesel::table! {
    mesh_event_head (one) { one -> Integer, position -> BigInt, }
}

diesel::table! {
    mesh_epoch (number) {
        number -> BigInt,
        epoch -> Text,
        origin -> Text,
        begins_with -> BigInt,
    }
}

diesel::table! {
    mesh_replica (name) { name -> Text, until -> BigInt, }
}

diesel::table! {
    mesh_cursor (policy, source, partition) {
        policy -> Text,
        source -> Text,
        partition -> Integer,
        epoch -> Text,
        position -> BigInt,
    }
}

diesel::table! {
    mesh_reader (policy, partition) {
        policy -> Text,
        partition -> Integer,
        epoch -> Text,
        position -> BigInt,
    }
}

diesel::table! {
    mesh_attempt (policy, event_id) {
        policy -> Text,
        event_id -> Text,
        failures -> Integer,
        crashes -> Integer,
    }
}

diesel::table! {
    mesh_parked (policy, event_id) {
        policy -> Text,
        position -> BigInt,
        event_id -> Text,
        subject -> Text,
        event -> Binary,
        failure -> Text,
        attempts -> Integer,
        time -> BigInt,
    }
}

diesel::table! {
    mesh_request (caller, method, request_id) {
        caller -> Text,
        method -> Text,
        request_id -> Text,
        hash -> Binary,
        answer -> Binary,
        time -> BigInt,
    }
}

diesel::table! {
    mesh_intent (name) {
        name -> Text,
        command -> Text,
        caller -> Text,
        request_id -> Nullable<Text>,
        hash -> Binary,
        state -> Text,
        intent_order -> Binary,
        answer -> Binary,
        undo_attempts -> Integer,
        last_failure -> Text,
        time -> BigInt,
    }
}

diesel::table! {
    mesh_view (one) { one -> Integer, current -> Integer, building -> Integer, }
}
