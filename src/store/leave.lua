-- Ends a membership.
-- ARGV[4]  proxy
-- Returns 1 if it was a member.
remove_registry_of_other_type()
return remove_member(ARGV[4])
