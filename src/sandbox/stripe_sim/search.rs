//! Search: Stripe's query language, and an index that is behind the books.
//! <https://docs.stripe.com/search>

use std::collections::BTreeMap;

use super::books::Table;
use super::error::{ApiError, Refusal, shortened};
use super::objects::Customer;

/// How long a change takes to reach the index, on the simulator's clock.
const LAG_SECONDS: i64 = 60;
/// Clauses in one query.
const MAX_CLAUSES: usize = 10;
/// The shortest text to look for inside another, in characters.
const MIN_PART: usize = 3;

/// The customers as a search sees them: as they were a while ago.
#[derive(Debug, Default)]
pub(super) struct CustomerIndex {
    shown: Table<Customer>,
    /// Changes on their way: when they arrive, and their number.
    coming: BTreeMap<(i64, u64), Customer>,
    next: u64,
}

impl CustomerIndex {
    /// A customer is new or has changed.
    pub(super) fn changed(&mut self, row: Customer) {
        self.arrive(row.changed);
        self.next = self.next.saturating_add(1);
        self.coming.insert((row.changed.saturating_add(LAG_SECONDS), self.next), row);
    }

    /// Takes in what has arrived by then.
    pub(super) fn arrive(&mut self, now: i64) {
        while self.coming.first_key_value().is_some_and(|((at, _), _)| *at <= now) {
            if let Some((_, row)) = self.coming.pop_first() {
                self.shown.put(&row.id.clone(), row);
            }
        }
    }

    /// Newest first.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = &Customer> {
        self.shown.newest_first().filter(|row| !row.deleted)
    }
}

/// What is looked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Query {
    clauses: Vec<Clause>,
    /// One clause is enough (`OR`), or all are needed (`AND`).
    any: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Clause {
    negated: bool,
    field: Field,
    test: Test,
}

#[derive(Debug, PartialEq, Eq)]
enum Field {
    Created,
    Email,
    Name,
    Phone,
    Metadata(String),
}

#[derive(Debug, PartialEq, Eq)]
enum Test {
    /// Without regard to case.
    Is(String),
    Contains(String),
    Absent,
    /// From the first to the second, both included.
    Within(i64, i64),
}

fn unreadable() -> Refusal {
    ApiError::parameter(
        "query",
        "We were unable to parse your search query. Try using the format `metadata[\"key\"]:\"value\"` to query for \
         metadata or `key:\"value\"` to query for other fields.",
    )
}

impl Query {
    /// Reads a query about customers.
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let mut reader = Reader(text.trim());
        let mut clauses = vec![reader.clause()?];
        let mut any = None;
        while !reader.0.is_empty() {
            let or = match reader.word() {
                "AND" => false,
                "OR" => true,
                _ => return Err(unreadable()),
            };
            if any.is_some_and(|any| any != or) {
                let message = "You cannot combine AND and OR in the same search query.";
                return Err(ApiError::parameter("query", message));
            }
            any = Some(or);
            reader.space();
            clauses.push(reader.clause()?);
            if clauses.len() > MAX_CLAUSES {
                let message = format!("A search query has at most {MAX_CLAUSES} clauses.");
                return Err(ApiError::parameter("query", message));
            }
        }
        Ok(Self { clauses, any: any == Some(true) })
    }

    /// Whether that customer is among those looked for.
    pub(super) fn matches(&self, row: &Customer) -> bool {
        let mut results = self.clauses.iter().map(|clause| clause.matches(row));
        if self.any { results.any(|is| is) } else { results.all(|is| is) }
    }
}

impl Clause {
    fn matches(&self, row: &Customer) -> bool {
        let value = match &self.field {
            Field::Created => None,
            Field::Email => row.email.as_deref(),
            Field::Name => row.name.as_deref(),
            Field::Phone => row.phone.as_deref(),
            Field::Metadata(key) => row.metadata.get(key).map(String::as_str),
        };
        let is = match &self.test {
            Test::Is(wanted) => value.is_some_and(|value| value.to_lowercase() == *wanted),
            Test::Contains(wanted) => value.is_some_and(|value| value.to_lowercase().contains(wanted)),
            Test::Absent => value.is_none(),
            Test::Within(from, to) => (*from..=*to).contains(&row.created),
        };
        is != self.negated
    }
}

/// What is left of a query.
struct Reader<'q>(&'q str);

impl<'q> Reader<'q> {
    fn space(&mut self) {
        self.0 = self.0.trim_start();
    }

    fn eat(&mut self, token: &str) -> bool {
        let rest = self.0.strip_prefix(token);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    /// Letters, digits and underscores.
    fn word(&mut self) -> &'q str {
        let end = self.0.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        word
    }

    /// A text in quotes of either kind; a backslash keeps the next character from ending it.
    fn quoted(&mut self) -> Option<String> {
        let quote = self.0.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let mut text = String::new();
        let mut escaped = false;
        for (at, c) in self.0.char_indices().skip(1) {
            match c {
                _ if escaped => {
                    text.push(c);
                    escaped = false;
                }
                '\\' => escaped = true,
                _ if c == quote => {
                    self.0 = self.0.get(at.saturating_add(1)..).unwrap_or_default();
                    return Some(text);
                }
                _ => text.push(c),
            }
        }
        None
    }

    fn field(&mut self) -> Result<Field, Refusal> {
        Ok(match self.word() {
            "created" => Field::Created,
            "email" => Field::Email,
            "name" => Field::Name,
            "phone" => Field::Phone,
            "metadata" => {
                let key = if self.eat("[") { self.quoted() } else { None };
                let key = key.filter(|_| self.eat("]")).ok_or_else(unreadable)?;
                Field::Metadata(key)
            }
            "" => return Err(unreadable()),
            other => {
                let other = shortened(other);
                return Err(ApiError::parameter(
                    "query",
                    format!("Field `{other}` is an unsupported search field for resource `customers`."),
                ));
            }
        })
    }

    /// One clause, and the space after it.
    fn clause(&mut self) -> Result<Clause, Refusal> {
        let negated = self.eat("-");
        let field = self.field()?;
        let operator = [">=", "<=", ">", "<", ":", "~"]
            .into_iter()
            .find(|operator| self.eat(operator))
            .ok_or_else(unreadable)?;
        let test =
            if field == Field::Created { self.number(operator)? } else { self.text(&field, operator)? };
        let before = self.0.len();
        self.space();
        if before == self.0.len() && !self.0.is_empty() {
            return Err(unreadable());
        }
        Ok(Clause { negated, field, test })
    }

    fn number(&mut self, operator: &str) -> Result<Test, Refusal> {
        let text = self.quoted().unwrap_or_else(|| self.word().to_owned());
        let number: i64 = text.parse().map_err(|_| unreadable())?;
        Ok(match operator {
            ">" => Test::Within(number.saturating_add(1), i64::MAX),
            ">=" => Test::Within(number, i64::MAX),
            "<" => Test::Within(i64::MIN, number.saturating_sub(1)),
            "<=" => Test::Within(i64::MIN, number),
            ":" => Test::Within(number, number),
            _ => return Err(unreadable()),
        })
    }

    fn text(&mut self, field: &Field, operator: &str) -> Result<Test, Refusal> {
        if operator == ":" && self.eat("null") {
            return Ok(Test::Absent);
        }
        let text = self.quoted().ok_or_else(unreadable)?.to_lowercase();
        match (operator, field) {
            (":", _) => Ok(Test::Is(text)),
            ("~", Field::Metadata(_)) => {
                let message = "The operator `~` is not supported for metadata.";
                Err(ApiError::parameter("query", message))
            }
            ("~", _) if text.chars().count() < MIN_PART => {
                let message = format!("A substring must have at least {MIN_PART} characters.");
                Err(ApiError::parameter("query", message))
            }
            ("~", _) => Ok(Test::Contains(text)),
            _ => Err(unreadable()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn customer() -> Customer {
        Customer {
            id: "cus_1".into(),
            created: 100,
            changed: 100,
            name: Some("Ada O'Neill".into()),
            email: Some("Ada@example.org".into()),
            phone: None,
            description: None,
            metadata: [("client".to_owned(), "c_1".to_owned())].into(),
            deleted: false,
        }
    }

    #[test]
    fn queries_find_what_they_say() {
        for (query, expected) in [
            ("metadata['client']:'c_1'", true),
            (r#"metadata["client"]:"C_1""#, true),
            ("metadata['client']:'c_2'", false),
            ("metadata['other']:'c_1'", false),
            ("-metadata['client']:null", true),
            ("metadata['other']:null", true),
            ("email:'ada@example.org'", true),
            ("email:'ada'", false),
            ("email~'example'", true),
            ("-email~'example'", false),
            (r"name:'ada o\'neill'", true),
            (r#"name:"ada o'neill""#, true),
            ("phone:null", true),
            ("created>99", true),
            ("created>100", false),
            ("created>=100 AND created<=100", true),
            ("created<100 OR email~'ada'", true),
            ("created<100 AND email~'ada'", false),
            ("created:100", true),
        ] {
            assert_eq!(Query::parse(query).unwrap().matches(&customer()), expected, "{query}");
        }
    }

    #[test]
    fn what_is_no_query_is_refused() {
        for query in [
            "",
            "ada",
            "email",
            "email:",
            "email:ada",
            "email:'ada",
            "email:'ada'AND name:'b'",
            "email:'ada' name:'b'",
            "email:'ada' AND",
            "email:'a' AND name:'b' OR name:'c'",
            "email~'ad'",
            "email>'ada'",
            "metadata:'c_1'",
            "metadata['client']~'c_1'",
            "description:'x'",
            "created:'x'",
            "created~1",
        ] {
            assert_eq!(Query::parse(query).unwrap_err().status, 400, "{query}");
        }
        let many = vec!["created>1"; MAX_CLAUSES.saturating_add(1)].join(" AND ");
        assert!(Query::parse(&many).is_err());
    }

    #[test]
    fn the_index_is_behind() {
        let mut index = CustomerIndex::default();
        let ids =
            |index: &CustomerIndex| index.newest_first().map(|row| row.name.clone()).collect::<Vec<_>>();
        index.changed(customer());
        index.arrive(159);
        assert!(ids(&index).is_empty());
        index.changed(Customer { changed: 130, name: Some("B".into()), ..customer() });
        index.arrive(160);
        assert_eq!(ids(&index), [Some("Ada O'Neill".to_owned())]);
        index.arrive(190);
        assert_eq!(ids(&index), [Some("B".to_owned())]);
        index.changed(Customer { changed: 200, deleted: true, ..customer() });
        index.arrive(i64::MAX);
        assert!(ids(&index).is_empty());
    }
}
