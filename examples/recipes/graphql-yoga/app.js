// Books: queries over GET, mutations over POST, subscriptions as event streams.
const { createServer } = require('node:http');
const { createPubSub, createSchema, createYoga } = require('graphql-yoga');

const events = createPubSub();
const books = ['Emma', 'Persuasion', 'Middlemarch'].map((title, at) => ({ id: String(at + 1), title, copies: 1 }));
const find = (id) => books.find((book) => book.id === id);

const schema = createSchema({
  typeDefs: /* GraphQL */ `
    type Book { id: ID! title: String! copies: Int! }
    type Query { books(title: String = ""): [Book!]! book(id: ID!): Book }
    type Mutation { add(title: String!): Book! setCopies(id: ID!, copies: Int!): Book! }
    type Subscription { added: Book! }
  `,
  resolvers: {
    Query: {
      books: (_, { title }) => books.filter((book) => book.title.includes(title)),
      book: (_, { id }) => find(id),
    },
    Mutation: {
      add(_, { title }) {
        const book = { id: String(books.length + 1), title, copies: 1 };
        books.push(book);
        events.publish('added', book);
        return book;
      },
      setCopies: (_, { id, copies }) => Object.assign(find(id), { copies }),
    },
    Subscription: {
      added: { subscribe: () => events.subscribe('added'), resolve: (book) => book },
    },
  },
});

const server = createServer(createYoga({ schema }));
server.listen(process.env.PORT ?? 3000, '127.0.0.1', () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
