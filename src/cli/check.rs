pub fn check(_f: &std::path::Path, _j: bool, _e: &dyn Fn(&str) -> Option<String>) -> (String, u8) {
    todo!()
}
