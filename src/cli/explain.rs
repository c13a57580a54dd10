pub(super) fn explain(_a: &super::ExplainArguments) -> (String, u8) {
    todo!()
}
