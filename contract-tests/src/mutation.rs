//! A valid request, made bad in one place: every way that applies to a field, by its kind and its name.

use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value,
};

/// A request that is bad in one place.
#[derive(Debug)]
pub struct Bad {
    /// The field that the refusal must name.
    pub field: String,
    /// What is wrong with it.
    pub what: &'static str,
    /// The request.
    pub request: DynamicMessage,
}

/// A way to make a field bad: what is wrong, and what to put there; nothing clears it.
type Way = (&'static str, Option<Value>);

/// Every bad request that comes of a valid one.
pub fn of(input: &MessageDescriptor, valid: &[u8]) -> Vec<Bad> {
    let request = DynamicMessage::decode(input.clone(), valid).expect("a valid request");
    let mut all = Vec::new();
    for field in input.fields() {
        for (name, what, value) in ways(&request, &field) {
            let mut request = request.clone();
            match value {
                Some(value) => request.set_field(&field, value),
                None => request.clear_field(&field),
            }
            all.push(Bad { field: name, what, request });
        }
    }
    all
}

/// All fields bad at once, each in its first way, and their names.
pub fn all_at_once(bad: &[Bad]) -> Option<(DynamicMessage, Vec<String>)> {
    let mut request = bad.first()?.request.clone();
    let mut names = Vec::new();
    for bad in bad {
        if names.contains(&bad.field) {
            continue;
        }
        let top = bad.field.split(['.', '[']).next().unwrap_or_default();
        if names.iter().any(|name: &String| name.split(['.', '[']).next() == Some(top)) {
            continue;
        }
        let field = request.descriptor().get_field_by_name(top)?;
        match bad.request.has_field(&field) {
            true => request.set_field(&field, bad.request.get_field(&field).into_owned()),
            false => request.clear_field(&field),
        }
        names.push(bad.field.clone());
    }
    Some((request, names))
}

fn ways(
    request: &DynamicMessage,
    field: &FieldDescriptor,
) -> Vec<(String, &'static str, Option<Value>)> {
    let name = field.name();
    let simple = |ways: Vec<Way>| {
        ways.into_iter().map(|(what, value)| (name.to_owned(), what, value)).collect::<Vec<_>>()
    };
    match field.kind() {
        _ if field.is_map() => Vec::new(),
        Kind::Uint32 if field.is_list() => {
            let list = |number| Some(Value::List(vec![Value::U32(number)]));
            simple(vec![("too large", list(16)), ("the largest", list(u32::MAX))])
        }
        Kind::String if field.is_list() => Vec::new(),
        Kind::String => {
            let value = request.get_field(field);
            simple(texts(name, value.as_str().unwrap_or_default()))
        }
        Kind::Int32 if name == "page_size" => simple(vec![
            ("negative", Some(Value::I32(-1))),
            ("the least", Some(Value::I32(i32::MIN))),
        ]),
        Kind::Int32 => simple(vec![
            ("nothing", Some(Value::I32(0))),
            ("negative", Some(Value::I32(-1))),
            ("too much", Some(Value::I32(100_001))),
            ("the most", Some(Value::I32(i32::MAX))),
            ("the least", Some(Value::I32(i32::MIN))),
        ]),
        Kind::Int64 => simple(vec![
            ("nothing", Some(Value::I64(0))),
            ("negative", Some(Value::I64(-1))),
            ("the least", Some(Value::I64(i64::MIN))),
        ]),
        Kind::Enum(_) => simple(vec![
            ("unspecified", Some(Value::EnumNumber(0))),
            ("unknown", Some(Value::EnumNumber(99))),
            ("negative", Some(Value::EnumNumber(-1))),
        ]),
        Kind::Message(message) => match message.full_name() {
            "turnstile.common.v1.Money" => money(name, &message),
            "google.protobuf.Timestamp" => simple(times(&message)),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

fn texts(name: &str, valid: &str) -> Vec<Way> {
    let text = |value: &str| Some(Value::String(value.to_owned()));
    let long = "x".repeat(100_000);
    let mut ways = Vec::new();
    // What is not given in a valid request need not be given.
    if !valid.is_empty() {
        ways.push(("missing", None));
    }
    ways.push(("too long", text(&long)));
    match (name, valid.split_once('/')) {
        ("request_id", _) => {
            ways.push(("no UUID", text("1")));
            ways.push(("nearly a UUID", text(&valid.replace('-', "_"))));
        }
        ("page_token" | "resume_token" | "resume_revision" | "min_revision", _) => {
            ways.push(("rubbish", text("rubbish")));
            ways.push(("a path", text("../../etc/passwd")));
        }
        (_, Some((collection, uuid))) if uuid.len() == 36 => {
            ways.push(("another collection", text(&format!("thieves/{uuid}"))));
            ways.push(("no UUID", text(&format!("{collection}/1"))));
            ways.push(("a path", text(&format!("{collection}/../../{uuid}"))));
            ways.push(("SQL", text(&format!("{collection}/' OR 1=1 --"))));
            ways.push(("a control character", text(&format!("{collection}/\0{}", &uuid[1..]))));
        }
        _ => ways.push(("a control character", text("a\u{7}b\0c"))),
    }
    ways
}

fn money(name: &str, message: &MessageDescriptor) -> Vec<(String, &'static str, Option<Value>)> {
    let amount = |currency: &str, units: i64| {
        let mut money = DynamicMessage::new(message.clone());
        money.set_field_by_name("currency_code", Value::String(currency.to_owned()));
        money.set_field_by_name("minor_units", Value::I64(units));
        Some(Value::Message(money))
    };
    let (units, currency) = (format!("{name}.minor_units"), format!("{name}.currency_code"));
    let of = |field: &String, what, value| (field.clone(), what, value);
    vec![
        (name.to_owned(), "missing", None),
        of(&units, "nothing", amount("KRW", 0)),
        of(&units, "a debt", amount("KRW", -1)),
        of(&units, "the most", amount("KRW", i64::MAX)),
        of(&units, "the least", amount("KRW", i64::MIN)),
        of(&currency, "no currency", amount("", 1000)),
        of(&currency, "small letters", amount("krw", 1000)),
        of(&currency, "a long currency", amount("KRWKRW", 1000)),
        of(&currency, "a control character", amount("K\0W", 1000)),
    ]
}

fn times(message: &MessageDescriptor) -> Vec<Way> {
    let time = |seconds: i64, nanos: i32| {
        let mut time = DynamicMessage::new(message.clone());
        time.set_field_by_name("seconds", Value::I64(seconds));
        time.set_field_by_name("nanos", Value::I32(nanos));
        Some(Value::Message(time))
    };
    vec![
        ("missing", None),
        ("negative nanos", time(2_000_000_000, -1)),
        ("a second of nanos", time(2_000_000_000, 1_000_000_000)),
        ("the year 10000", time(253_402_300_800, 0)),
        ("before 1970", time(-1, 0)),
        ("the end of time", time(i64::MAX, i32::MAX)),
        ("the begin of time", time(i64::MIN, i32::MIN)),
    ]
}
