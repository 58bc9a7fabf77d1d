import ca.uhn.fhir.batch2.jobs.config.Batch2JobsConfig;
import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.context.support.IValidationSupport;
import ca.uhn.fhir.jpa.api.IDaoRegistry;
import ca.uhn.fhir.jpa.api.config.JpaStorageSettings;
import ca.uhn.fhir.jpa.api.config.ThreadPoolFactoryConfig;
import ca.uhn.fhir.jpa.api.dao.IFhirSystemDao;
import ca.uhn.fhir.jpa.batch2.JpaBatch2Config;
import ca.uhn.fhir.jpa.config.r4.JpaR4Config;
import ca.uhn.fhir.jpa.config.r4b.JpaR4BConfig;
import ca.uhn.fhir.jpa.config.r5.JpaR5Config;
import ca.uhn.fhir.jpa.config.util.HapiEntityManagerFactoryUtil;
import ca.uhn.fhir.jpa.config.util.ResourceCountCacheUtil;
import ca.uhn.fhir.jpa.dao.FulltextSearchSvcImpl;
import ca.uhn.fhir.jpa.dao.IFulltextSearchSvc;
import ca.uhn.fhir.jpa.dao.search.HSearchSortHelperImpl;
import ca.uhn.fhir.jpa.dao.search.IHSearchSortHelper;
import ca.uhn.fhir.jpa.model.config.PartitionSettings;
import ca.uhn.fhir.jpa.model.config.SubscriptionSettings;
import ca.uhn.fhir.jpa.model.dialect.HapiFhirH2Dialect;
import ca.uhn.fhir.jpa.provider.DaoRegistryResourceSupportedSvc;
import ca.uhn.fhir.jpa.provider.IJpaSystemProvider;
import ca.uhn.fhir.jpa.provider.JpaCapabilityStatementProvider;
import ca.uhn.fhir.jpa.search.DatabaseBackedPagingProvider;
import ca.uhn.fhir.jpa.search.IStaleSearchDeletingSvc;
import ca.uhn.fhir.jpa.search.StaleSearchDeletingSvcImpl;
import ca.uhn.fhir.jpa.subscription.channel.config.SubscriptionChannelConfig;
import ca.uhn.fhir.jpa.subscription.match.config.SubscriptionProcessorConfig;
import ca.uhn.fhir.jpa.subscription.match.deliver.email.IEmailSender;
import ca.uhn.fhir.jpa.subscription.submit.config.SubscriptionSubmitterConfig;
import ca.uhn.fhir.jpa.topic.ISubscriptionTopicLoader;
import ca.uhn.fhir.jpa.topic.SubscriptionTopicConfig;
import ca.uhn.fhir.jpa.util.ResourceCountCache;
import ca.uhn.fhir.rest.api.EncodingEnum;
import ca.uhn.fhir.rest.api.IResourceSupportedSvc;
import ca.uhn.fhir.rest.server.RestfulServer;
import ca.uhn.fhir.rest.server.provider.ResourceProviderFactory;
import ca.uhn.fhir.rest.server.util.ISearchParamRegistry;
import com.zaxxer.hikari.HikariDataSource;
import jakarta.persistence.EntityManagerFactory;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.net.InetSocketAddress;
import java.util.Map;
import java.util.Properties;
import javax.sql.DataSource;
import org.eclipse.jetty.ee10.servlet.ServletContextHandler;
import org.eclipse.jetty.ee10.servlet.ServletHolder;
import org.eclipse.jetty.server.Server;
import org.springframework.beans.factory.config.ConfigurableListableBeanFactory;
import org.springframework.context.annotation.AnnotationConfigApplicationContext;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.annotation.Import;
import org.springframework.context.annotation.Primary;
import org.springframework.orm.jpa.JpaTransactionManager;
import org.springframework.orm.jpa.LocalContainerEntityManagerFactoryBean;
import org.springframework.transaction.annotation.EnableTransactionManagement;

/**
 * A HAPI FHIR JPA server on loopback, in the part of an EHR: HAPI's defaults wherever it has one, so that what is met here
 * is what a hospital's HAPI does.
 *
 * <p>Arguments: FHIR version (R4, R4B, R5), port, path of the H2 database without its suffix. The base is /fhir. A POST to
 * /topics reads subscription topics anew, which HAPI itself does once a minute.
 */
public final class HapiServer {
  private static final String LOOPBACK = "127.0.0.1";
  private static final int CONNECTIONS_TO_DATABASE = 30;
  private static final long SUBSCRIPTIONS_READ_EVERY_MS = 500;
  private static final Map<String, Class<?>> VERSIONS =
      Map.of("R4", JpaR4Config.class, "R4B", JpaR4BConfig.class, "R5", JpaR5Config.class);

  public static void main(String[] arguments) throws Exception {
    Class<?> version = VERSIONS.get(arguments[0]);
    var beans = new AnnotationConfigApplicationContext();
    beans.registerBean("database", DataSource.class, () -> database(arguments[2]));
    beans.register(Storage.class, Ways.class, Demanded.class, version);
    beans.refresh();

    var web = new Server(new InetSocketAddress(LOOPBACK, Integer.parseInt(arguments[1])));
    var paths = new ServletContextHandler("/");
    var fhir = new ServletHolder(fhir(beans));
    fhir.setInitOrder(1); // now, and not with somebody's first request
    paths.addServlet(fhir, "/fhir/*");
    paths.addServlet(new ServletHolder(new Topics(beans.getBean(ISubscriptionTopicLoader.class))), "/topics");
    web.setHandler(paths);
    web.start();
    Runtime.getRuntime().addShutdownHook(new Thread(() -> stop(web, beans)));
    web.join();
  }

  private static void stop(Server web, AnnotationConfigApplicationContext beans) {
    try {
      web.stop();
    } catch (Exception error) {
      error.printStackTrace();
    }
    beans.close();
  }

  /** A commit is on its way to the disk before it is answered: by default H2 keeps half a second of them in memory. */
  private static DataSource database(String path) {
    var pool = new HikariDataSource();
    pool.setJdbcUrl("jdbc:h2:file:" + path + ";WRITE_DELAY=0;DB_CLOSE_ON_EXIT=FALSE");
    pool.setUsername("sa");
    pool.setPassword("");
    pool.setMaximumPoolSize(CONNECTIONS_TO_DATABASE);
    return pool;
  }

  private static RestfulServer fhir(AnnotationConfigApplicationContext beans) {
    var server = new RestfulServer(beans.getBean(FhirContext.class));
    server.registerProviders(beans.getBean(ResourceProviderFactory.class).createProviders());
    server.registerProvider(beans.getBean(IJpaSystemProvider.class));
    server.setPagingProvider(beans.getBean(DatabaseBackedPagingProvider.class));
    server.setDefaultResponseEncoding(EncodingEnum.JSON);
    server.setServerConformanceProvider(
        new JpaCapabilityStatementProvider(
            server,
            beans.getBean(IFhirSystemDao.class),
            beans.getBean(JpaStorageSettings.class),
            beans.getBean(ISearchParamRegistry.class),
            beans.getBean(IValidationSupport.class)));
    return server;
  }

  private static final class Topics extends HttpServlet {
    private final transient ISubscriptionTopicLoader loader;

    Topics(ISubscriptionTopicLoader loader) {
      this.loader = loader;
    }

    @Override
    protected void doPost(HttpServletRequest request, HttpServletResponse response) {
      loader.forceRefresh();
      response.setStatus(HttpServletResponse.SC_NO_CONTENT);
    }
  }

  /** Where resources are kept. */
  @Configuration
  @EnableTransactionManagement
  @Import({ThreadPoolFactoryConfig.class, JpaBatch2Config.class, Batch2JobsConfig.class})
  public static class Storage {
    @Bean
    @Primary
    public LocalContainerEntityManagerFactoryBean entityManagerFactory(
        ConfigurableListableBeanFactory beans, FhirContext fhir, JpaStorageSettings settings, DataSource database) {
      var factory = HapiEntityManagerFactoryUtil.newEntityManagerFactory(beans, fhir, settings);
      factory.setPersistenceUnitName("ehr");
      factory.setDataSource(database);
      var hibernate = new Properties();
      hibernate.put("hibernate.dialect", HapiFhirH2Dialect.class.getName());
      hibernate.put("hibernate.hbm2ddl.auto", "update");
      hibernate.put("hibernate.search.enabled", "false"); // a full-text index is of no use here, and it is large
      factory.setJpaProperties(hibernate);
      return factory;
    }

    @Bean
    @Primary
    public JpaTransactionManager transactionManager(EntityManagerFactory entities) {
      return new JpaTransactionManager(entities);
    }
  }

  /** How the server behaves. */
  @Configuration
  @Import({
    SubscriptionSubmitterConfig.class,
    SubscriptionProcessorConfig.class,
    SubscriptionChannelConfig.class,
    SubscriptionTopicConfig.class
  })
  public static class Ways {
    @Bean
    public JpaStorageSettings storageSettings() {
      return new JpaStorageSettings();
    }

    @Bean
    public PartitionSettings partitionSettings() {
      return new PartitionSettings();
    }

    @Bean
    public SubscriptionSettings subscriptionSettings() {
      var settings = new SubscriptionSettings();
      settings.addSupportedSubscriptionType(org.hl7.fhir.dstu2.model.Subscription.SubscriptionChannelType.RESTHOOK);
      settings.setSubscriptionIntervalInMs(SUBSCRIPTIONS_READ_EVERY_MS);
      settings.setQualifySubscriptionMatchingChannelName(false); // one server: its queues need no name of their own
      return settings;
    }
  }

  /** What HAPI wants to find among the beans and doesn't bring itself. */
  @Configuration
  public static class Demanded {
    @Bean(name = "myResourceCountsCache")
    public ResourceCountCache resourceCounts(IFhirSystemDao<?, ?> dao) {
      return ResourceCountCacheUtil.newResourceCountCache(dao);
    }

    @Bean
    public IEmailSender emailSender() {
      return details -> {
        throw new UnsupportedOperationException("this server sends no mail");
      };
    }

    @Bean
    public IFulltextSearchSvc fulltextSearch() {
      return new FulltextSearchSvcImpl();
    }

    @Bean
    public IStaleSearchDeletingSvc staleSearches() {
      return new StaleSearchDeletingSvcImpl();
    }

    @Bean
    public IHSearchSortHelper sortHelper(ISearchParamRegistry parameters) {
      return new HSearchSortHelperImpl(parameters);
    }

    @Bean
    public DatabaseBackedPagingProvider paging() {
      return new DatabaseBackedPagingProvider();
    }

    @Bean
    public IResourceSupportedSvc supportedResources(IDaoRegistry daos) {
      return new DaoRegistryResourceSupportedSvc(daos);
    }
  }
}
