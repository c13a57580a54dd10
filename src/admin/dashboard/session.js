// Who is signed in.

/// `token`: name, role and families; null without tokens.
export const session = { token: null };

/// Whether changes are allowed.
export const mayChange = () => !session.token || session.token.role !== "viewer";
export const VIEWER = "Your token is for viewers. Sign in with an admin token to change anything.";
