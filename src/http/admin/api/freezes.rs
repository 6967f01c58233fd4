//! Who may spend.

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

use super::refused::Refused;
use super::{Desk, answer};
use crate::http::admin::basic::Operator;
use crate::ledger::LedgerError;
use crate::ledger::aftermath::Change;
use crate::ledger::read::{self, ClientRow};

/// `POST /admin/api/clients/{public_id}/freeze`.
pub(super) async fn freeze(
    path: web::Path<String>,
    desk: web::Data<Desk>,
    operator: web::ReqData<Operator>,
) -> HttpResponse {
    answer(change_client(&desk, &path, operator.into_inner(), |client, _| Change::Freeze { client }).await)
}

/// `POST /admin/api/clients/{public_id}/unfreeze`: whatever had frozen it.
pub(super) async fn unfreeze(
    path: web::Path<String>,
    desk: web::Data<Desk>,
    operator: web::ReqData<Operator>,
) -> HttpResponse {
    let lifted = |client, by| Change::Unfreeze { client, by };
    answer(change_client(&desk, &path, operator.into_inner(), lifted).await)
}

async fn change_client(
    desk: &Desk,
    public_id: &str,
    Operator(operator): Operator,
    change: impl FnOnce(i64, String) -> Change,
) -> Result<Value, Refused> {
    let client: ClientRow =
        read::client_by_public_id(desk.db.reader(), public_id).await?.ok_or(Refused::NotFound)?;
    let change = change(client.id, operator.clone());
    let (ledger, public_id) = (desk.ledger.clone(), client.public_id.clone());
    let work = desk.tasks.spawn(async move {
        let changed = ledger.change(change).await;
        match &changed {
            Ok((_, state)) => tracing::info!(
                operator,
                client.id = public_id,
                client.frozen = state.frozen,
                "an operator changed who may spend"
            ),
            Err(error) => {
                tracing::warn!(operator, client.id = public_id, %error, "an operator could not change who may spend");
            }
        }
        changed
    });
    let changed = work.await.unwrap_or_else(|error| Err(LedgerError::Unavailable(error.to_string())));
    let (_, state) = changed.map_err(Refused::Ledger)?;
    Ok(json!({
        "client": client.public_id,
        "status": if state.frozen { "frozen" } else { "active" },
        "currency": state.currency.code(),
        "debt": state.currency.decimal(state.debt),
    }))
}
